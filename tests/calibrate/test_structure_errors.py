"""The errors of volumes of a held-out subject, and the correction of intervals that they give."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from sadm_ray.calibrate.calibration_job import _errors
from sadm_ray.calibrate.held_out_prediction import HeldOutPrediction
from sadm_ray.calibrate.structure_errors import errors_of, structure_errors
from sadm_ray.config import Settings
from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.evaluate.structure_scores import VolumeIntervals
from sadm_ray.generate.actor_job import GenerationJob
from sadm_ray.generate.moved_structures import ObservedStructures
from sadm_ray.generate.request import Query
from sadm_ray.generate.structure_volumes import interval, summarise_volumes
from sadm_ray.generate.volume_corrections import NOT_CORRECTED, VolumeCorrection, corrections_for, why_not_corrected
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.recalibration import NOT_CALIBRATED, Recalibration, VolumeErrors
from tests.generate.test_generation_actor import TASK, job  # noqa: F401
from tests.generate.test_structure_volumes import rows
from tests.generate.test_structures_written import NAMES, folder, label_map, labels, study  # noqa: F401

SAMPLES = 6


def test_the_rank_is_that_of_conformal_prediction() -> None:
    """The ⌈(n + 1) level⌉-th smallest of n errors, in the half width of the samples' interval at that level."""
    nine = VolumeErrors(samples=SAMPLES, errors=tuple(float(each) for each in range(1, 10)))
    assert nine.factor(0.9) == pytest.approx(9 / 2.0150, rel=1e-4), "t of 5 degrees of freedom at 95 %"
    assert nine.factor(0.5) == pytest.approx(5 / 0.7267, rel=1e-4)
    assert nine.factor(0.91) is None
    assert VolumeErrors(samples=SAMPLES, errors=nine.errors[:8]).factor(0.9) is None
    assert VolumeErrors(samples=SAMPLES, errors=()).factor(0.5) is None


def test_corrected_intervals_hold_where_the_samples_are_too_sure() -> None:
    """Samples with a third of the deviation of the truth: their own intervals of 90 % hold half of it."""
    rng = np.random.default_rng(0)

    def subject() -> tuple[float, np.ndarray]:
        scale = rng.uniform(5, 50)
        return float(rng.normal(1000, scale)), rng.normal(1000, scale / 3, SAMPLES)

    held: dict[str, list[bool]] = {"own": [], "corrected": []}
    for _ in range(300):
        before = [subject() for _ in range(19)]
        units = [(truth - its.mean()) / (its.std(ddof=1) * math.sqrt(1 + 1 / SAMPLES)) for truth, its in before]
        factor = VolumeErrors(samples=SAMPLES, errors=tuple(sorted(map(abs, units)))).factor(0.9)
        truth, its = subject()
        for name, by in (("own", 1.0), ("corrected", factor)):
            low, high = interval(its, 0.9, by)
            held[name].append(low <= truth <= high)
    assert np.mean(held["own"]) < 0.65
    assert np.mean(held["corrected"]) == pytest.approx(0.9, abs=0.05)


def shares_of(sizes: np.ndarray) -> np.ndarray:
    """Of one target and one structure: a row of voxels as long as each size."""
    shares = np.zeros((1, len(sizes), len(NAMES), 1, 1, 40), np.float16)
    for share, size in zip(shares[0, :, 0, 0, 0], sizes, strict=True):
        share[: int(size)] = 1
    return shares


def test_the_error_is_in_what_a_next_sample_would_deviate_by(study: Study, labels: LabelFiles) -> None:  # noqa: F811
    row = read_subject(study, "a")
    sizes = np.array([20.0, 24.0, 28.0])
    own = ObservedStructures({"cavity": 3, "wall": 7}, {}, 1.5, None)
    query = Query(np.array([True, False, False, False, False]), (4,), np.array([1.0]))
    nothing = np.zeros((1, 1, 1, 1, 1))
    predicted = HeldOutPrediction(query, nothing, nothing[None], own, shares_of(sizes))
    found = structure_errors(predicted, row, labels)
    truth = float((label_map(6) == 3).sum())
    assert found["cavity"] == pytest.approx((truth - 36) / (6 * math.sqrt(4 / 3)), rel=1e-3)
    assert found["wall"] > 1000, "samples without it do not differ"
    elsewhere = HeldOutPrediction(
        Query(query.observed, (3,), np.array([0.75])), nothing, nothing[None], own, shares_of(sizes)
    )
    assert structure_errors(elsewhere, row, labels) == {}, "that visit has no label map"
    both = Query(query.observed, (3, 4), np.array([0.75, 1.0]))
    twice = HeldOutPrediction(both, nothing, nothing[None], own, np.concatenate([shares_of(sizes)] * 2))
    assert structure_errors(twice, row, labels) == found


def test_held_out_subjects_with_label_maps_are_counted(
    job: GenerationJob,  # noqa: F811
    study: Study,  # noqa: F811
    labels: LabelFiles,  # noqa: F811
) -> None:
    settings = Settings.model_validate({"calibrate": {"samples": 3}})
    settings = settings.model_copy(update={"generate": settings.generate.model_copy(update={"tasks": (TASK,)})})
    found = [
        _errors(job.models[0].build(), read_subject(study, name), settings, job.sampling, NOT_CALIBRATED, 0, labels)
        for name in "ab"
    ]
    found = json.loads(json.dumps(found))
    assert set(found[0]["future"]["volumes"]) == {"cavity", "wall"}
    assert found[1]["future"]["volumes"] == {}, "b has no label map"
    assert all(each["future"]["missed"] for each in found)
    errors = errors_of([each["future"]["volumes"] for each in found], 3)
    assert {name: each.subjects for name, each in errors.items()} == {"cavity": 1, "wall": 1}
    assert errors["cavity"].samples == 3
    model = Recalibration(volumes={"future": errors})
    assert Recalibration.model_validate(json.loads(model.content)) == model
    assert "volumes" not in NOT_CALIBRATED.content, "what an earlier version calibrated keeps its identity"


ERRORS = {
    "first": {"cavity": VolumeErrors(samples=SAMPLES, errors=(1.0,) * 19)},
    "second": {"cavity": VolumeErrors(samples=SAMPLES, errors=(3.0,) * 9)},
}


def test_a_request_that_is_no_task_gets_the_widest_of_all() -> None:
    model = Recalibration(volumes=ERRORS)
    first, second, other = (
        corrections_for(model, task, ["cavity"], 0.9)["cavity"] for task in ("first", "second", None)
    )
    assert first.factor is not None
    assert second.factor == other.factor == pytest.approx(3 * first.factor)
    assert (first.subjects, second.subjects, other.subjects) == (19, 9, 9)
    assert [each.fitted_for for each in (first, second, other)] == ["first", "second", "other tasks"]
    assert corrections_for(model, "unlabelled", ["cavity"], 0.9)["cavity"] == other
    assert corrections_for(model, None, ["cavity"], 0.95)["cavity"] == VolumeCorrection(None, 9), "nothing is made up"
    assert corrections_for(model, "first", ["wall"], 0.9)["wall"] == VolumeCorrection(None, 0, "first")
    assert corrections_for(NOT_CALIBRATED, "first", ["wall"], 0.9)["wall"] == NOT_CORRECTED


@pytest.mark.parametrize(
    ("volumes", "models", "level", "said"),
    [
        (ERRORS, 1, 0.9, None),
        (ERRORS, 1, 0.95, "for second: 9 held-out subjects with label maps .*level=0.95, which takes 19"),
        ({}, 1, 0.9, "m.safetensors is not calibrated on label maps .* run `sadm-ray calibrate`"),
        (ERRORS, 2, 0.9, "not for an ensemble"),
    ],
)
def test_where_there_is_no_correction_a_line_says_why(
    volumes: dict[str, dict[str, VolumeErrors]],
    models: int,
    level: float,
    said: str | None,
    labels: LabelFiles,  # noqa: F811
) -> None:
    model = StoredModel("m.safetensors", b"", np.zeros(1, np.uint8), recalibration=Recalibration(volumes=volumes))
    lines = list(why_not_corrected([model] * models, labels, 4, level))
    assert len(lines) == (said is not None)
    for line in lines:
        assert said is not None
        assert re.search(said, line)
    assert not list(why_not_corrected([model] * models, None, 4, level)), "there are no label maps"
    assert not list(why_not_corrected([model] * models, labels, 1, level)), "there is no interval"


def test_tables_and_scores_have_both_intervals() -> None:
    volumes = pd.DataFrame(rows(np.array([[100.0, 50.0], [90.0, 40.0], [110.0, 60.0]])))
    corrections = {
        ("anna", "future", "cavity"): VolumeCorrection(2.0, 12),
        ("anna", "future", "wall"): VolumeCorrection(None, 3),
    }
    cavity, wall = summarise_volumes(volumes, 0.9, corrections).to_dict("records")
    middle, half = 400, cavity["high_voxels"] - 400
    assert cavity["corrected_high_voxels"] == pytest.approx(middle + 2 * half)
    assert cavity["corrected_low_voxels"] == 0, "no volume is below 0"
    assert (cavity["held_out"], wall["held_out"]) == (12, 3)
    assert cavity["fitted_for"] == "other tasks"
    assert pd.isna(wall["fitted_for"])
    assert math.isnan(wall["corrected_high_ml"])
    samples = {"cavity": np.array([90.0, 110.0])}
    intervals = VolumeIntervals(0.9, samples, {"cavity": VolumeCorrection(3.0, 12)})
    _, high = interval(samples["cavity"], 0.9)
    scores = intervals.scores("cavity", high + 1, 0.1)
    assert (scores["interval_holds"], scores["corrected_holds"], scores["held_out"]) == (0, 1, 12)
    assert scores["corrected_ml"] > scores["interval_ml"]
    for each in (VolumeIntervals(0.9, samples, {}), VolumeIntervals(0.9, {}, {})):
        assert math.isnan(each.scores("cavity", 100, 0.1)["corrected_holds"])
