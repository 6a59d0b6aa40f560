import json
from pathlib import Path

import numpy as np
import pytest

from sadm_ray.calibrate.bounds import misses_of
from sadm_ray.config import GenerateSettings, SamplingSettings
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.generate.bounds_wanted import check_bounds, widths_for
from sadm_ray.model.prediction_bounds import BoundWidths, deviation_of, regions_of
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.recalibration import FILE, REGIONS, WIDTHS, Misses, Recalibration, deciding, needed_subjects
from sadm_ray.storage import Storage

COUNT = len(WIDTHS)


def missing(after: int) -> list[float]:
    """Half of the voxels lie outside of narrower bounds, none outside of the width at `after`."""
    return [0.5] * after + [0.0] * (COUNT - after)


def misses(subjects: int = 19, after: int = 10) -> Misses:
    return misses_of([{region: missing(after) for region in REGIONS}] * subjects)


def test_the_width_is_that_of_conformal_risk_control() -> None:
    """With n subjects (n R + 1)/(n + 1) must not exceed 1 − level."""
    assert misses(19).width("moving", 0.95) == WIDTHS[10]  # 1/20
    assert misses(18).width("moving", 0.95) is None
    assert misses(9).width("moving", 0.9) == WIDTHS[10]
    assert misses(19).width("moving", 0.4) == WIDTHS[0]  # half of the voxels may lie outside
    assert misses(9).highest_level == pytest.approx(0.9)
    assert [needed_subjects(level) for level in (0.5, 0.8, 0.9, 0.95)] == [1, 4, 9, 19]


def test_on_exchangeable_subjects_the_promise_holds() -> None:
    """Subjects whose errors are 0.3 to 3 times what their samples say; of new ones at least 90 % lie inside."""
    generator = np.random.default_rng(0)

    def subject() -> np.ndarray:
        return np.abs(generator.normal(size=500) * generator.uniform(0.3, 3.0))

    inside = []
    for _ in range(200):
        held_out = [{region: [(subject() > width).mean() for width in WIDTHS] for region in REGIONS} for _ in range(12)]
        width = misses_of(held_out).width("moving", 0.9)
        assert width is not None
        inside.append((subject() <= width).mean())
    assert 0.9 <= np.mean(inside) < 0.99


def test_bounds_lie_around_the_estimate_by_region() -> None:
    samples = np.stack([np.zeros((2, 2, 2)), np.full((2, 2, 2), 0.001)]).astype(np.float32)
    samples[1, 0] = 0.2
    deviation = deviation_of(samples)
    regions = regions_of(deviation)
    assert regions["moving"][0].all()
    assert regions["still"][1].all()
    widths = BoundWidths(0.9, 12, "to-last", {"still": 1.0, "moving": 3.0})
    lower, upper = widths.around(np.full((2, 2, 2), 0.5), samples)
    np.testing.assert_allclose(upper - 0.5, np.where(regions["moving"], 3.0, 1.0) * deviation)
    np.testing.assert_allclose(0.5 - lower, upper - 0.5)
    assert "90 %" in widths.in_words()
    assert "12 held-out subjects for the task to-last" in widths.in_words()


def test_a_request_that_is_no_task_gets_the_widest_of_all() -> None:
    recalibration = Recalibration(misses={"a": misses(after=3), "b": misses(19, after=7)}, subjects=19)
    found = {task: widths_for(recalibration, task, 0.9) for task in ("a", "b", None)}
    assert found["a"] is not None
    assert found["b"] is not None
    assert found[None] is not None
    assert found["a"].widths["moving"] < found["b"].widths["moving"] == found[None].widths["moving"]
    assert "not fitted for this" in found[None].in_words()
    assert widths_for(Recalibration(), None, 0.9) is None
    assert widths_for(Recalibration(misses={"a": misses(5)}, subjects=5), "a", 0.9) is None


def stored(recalibration: Recalibration) -> StoredModel:
    return StoredModel("runs/x/model.safetensors", b"{}", np.zeros(4, np.uint8), recalibration=recalibration)


WANTED = GenerateSettings(estimates=("lower", "upper"), samples=8)


def test_bounds_that_cannot_be_given_are_refused_in_a_line() -> None:
    calibrated = stored(Recalibration(misses={"a": misses(9)}, subjects=9))
    check_bounds(WANTED, [calibrated])
    check_bounds(GenerateSettings(samples=1), [stored(Recalibration())])
    for wanted, models, words in (
        (WANTED.model_copy(update={"samples": 1}), [calibrated], r"generate\.samples: .* 2 or more"),
        (WANTED, [calibrated, calibrated], "not for an ensemble"),
        (WANTED, [stored(Recalibration())], r"not calibrated .* `sadm-ray calibrate`"),
        (WANTED.model_copy(update={"level": 0.95}), [calibrated], r"generate\.level: 9 held-out .* takes 19"),
    ):
        with pytest.raises(ConfigError, match=words) as error:
            check_bounds(wanted, models)
        assert "\n" not in str(error.value)


def test_it_is_used_with_its_own_weights_and_sampling_settings_alone(tmp_path: Path) -> None:
    folder, sampling = Storage(str(tmp_path)), SamplingSettings(num_steps=2)
    fitted = Recalibration(subjects=9, sampling=deciding(sampling), weights="a" * 64, misses={"a": misses(9)})
    fitted.write(folder)
    assert Recalibration.read(folder, "a" * 64) == fitted
    assert Recalibration.read(folder, "b" * 64) == Recalibration()
    assert fitted.fits(sampling.model_copy(update={"precision": "bfloat16"}))
    assert not fitted.fits(sampling.model_copy(update={"num_steps": 3}))
    known = stored(fitted)
    assert known.recalibrated(sampling) is known
    other = known.recalibrated(SamplingSettings(temperature=0.5))
    assert not other.recalibration.subjects
    assert other.identity == other.digest == known.digest != known.identity


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    for content in ("{", json.dumps({"beyond": {"change": -1}}), json.dumps([1])):
        (tmp_path / FILE).write_text(content)
        with pytest.raises(DataError, match=rf"{FILE}: damaged .* calibrate again") as error:
            Recalibration.read(Storage(str(tmp_path)), "a")
        assert "\n" not in str(error.value)
