import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pytest
import torch

from sadm_ray.config import DenoiserSettings, ModelSettings, SamplingSettings, TaskSettings
from sadm_ray.data.rows import ROW_SCHEMA, parse_row
from sadm_ray.errors import DataError
from sadm_ray.generate.actor import GenerateActor, Job
from sadm_ray.generate.draw import draw
from sadm_ray.generate.request import ask, sample_seed
from sadm_ray.generate.writer import write_samples
from sadm_ray.model.sadm import Sadm, SadmConfig
from tests.data.studies import made_row

SHAPE = (4, 8, 8)
TIMES = np.linspace(0, 1, 5, dtype=np.float32)
TASK = TaskSettings(name="future", observed=(0, 2), targets=(3, -1))


def present(*slots: int) -> np.ndarray:
    return np.isin(np.arange(5), slots)


@pytest.mark.parametrize(
    ("here", "observed"),
    [
        ((0, 1, 2, 3, 4), [0, 2]),
        ((0, 1, 4), [0, 1]),  # slot 2 is absent: the nearest that is there
        ((0, 3, 4), [0]),  # … unless that is a target
        ((1, 2), [1, 2]),
    ],
)
def test_absent_frames_are_replaced_by_the_nearest_but_never_by_a_target(
    here: tuple[int, ...], observed: list[int]
) -> None:
    request = ask(TASK, present(*here), TIMES)
    assert np.flatnonzero(request.observed).tolist() == observed
    assert request.targets == (3, 4)
    assert request.target_times.tolist() == TIMES[[3, 4]].tolist()


def test_a_subject_with_nothing_to_observe_is_refused() -> None:
    with pytest.raises(ValueError, match="no frame that task 'future' may observe"):
        ask(TASK, present(3, 4), TIMES)


def test_a_sequence_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="has 3 frames, hence no frame 3"):
        ask(TASK, np.ones(3, dtype=bool), TIMES[:3])


def test_sequences_of_any_length_are_asked_together(model: Sadm) -> None:
    short = made_row("s", np.random.default_rng(0).random((4, *SHAPE)), times=TIMES[:4])
    task = TaskSettings(name="next", observed=(0, 1), targets=(-1,))
    mixed = [parse_row(short), *rows("a")]
    requests, together = draw(model, mixed, task, SamplingSettings(num_steps=1), samples=1, seed=0)
    _, alone = draw(model, mixed[:1], task, SamplingSettings(num_steps=1), samples=1, seed=0)
    assert [request.targets for request in requests] == [(3,), (4,)]
    np.testing.assert_allclose(together[0], alone[0], atol=1e-5)


def test_seeds_are_a_samples_own() -> None:
    seeds = {
        sample_seed(seed, subject, task, n) for seed in (0, 1) for subject in "ab" for task in "st" for n in (0, 1)
    }
    assert len(seeds) == 16
    assert sample_seed(0, "a", "s", 1) == sample_seed(0, "a", "s", 1)


@pytest.fixture
def model() -> Sadm:
    torch.manual_seed(0)
    settings = ModelSettings(difference_scale=0.1, denoiser=DenoiserSettings(widths=(16, 16), blocks=1))
    model = Sadm(SadmConfig(shape=SHAPE, model=settings)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def stored(name: str, here: np.ndarray | None = None) -> dict[str, Any]:
    """The stored row of a made-up subject; what it is depends on its name alone."""
    frames = np.random.default_rng(ord(name)).random((5, *SHAPE))
    return made_row(name, frames, None if here is None else here.tolist(), TIMES, source_shape=(5, 12, 10))


def rows(*names: str) -> list[dict[str, Any]]:
    return [parse_row(stored(name)) for name in names]


def test_the_samples_of_a_subject_do_not_depend_on_its_batch(model: Sadm) -> None:
    sampling = SamplingSettings(num_steps=2, sampler="ancestral")
    _, together = draw(model, rows("a", "b", "c"), TASK, sampling, samples=2, seed=0)
    _, alone = draw(model, rows("b"), TASK, sampling, samples=2, seed=0)
    _, fewer = draw(model, rows("b"), TASK, sampling, samples=1, seed=0)
    assert together.shape == (3, 2, 2, 1, *SHAPE)
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)
    np.testing.assert_allclose(fewer[0, :, 0], alone[0, :, 0], atol=1e-5)
    assert np.abs(alone[0, :, 0] - alone[0, :, 1]).max() > 1e-3


def test_estimates_are_written_in_the_subjects_grid_and_range(tmp_path: Path) -> None:
    samples = np.stack([np.full((1, *SHAPE), value, dtype=np.float32) for value in (0.2, 0.4)])
    files = write_samples(tmp_path, "a", 3, samples, rows("a")[0], {"Task": "future"})
    values = {file.name.split("desc-")[1].split(".")[0]: nib.load(file) for file in files}
    assert {name: image.shape for name, image in values.items()} == dict.fromkeys(
        ("sample", "mean", "std"), (10, 12, 5)
    )
    means = {name: image.get_fdata().mean() for name, image in values.items()}
    assert means == pytest.approx({"sample": 10 + 0.2 * 490, "mean": 10 + 0.3 * 490, "std": 0.1 * 490}, rel=1e-5)
    told = json.loads((tmp_path / "sub-a" / "sub-a_frame-03_desc-mean.json").read_text())
    assert (told["Estimate"], told["Samples"], told["Task"]) == ("mean", 2, "future")
    assert sorted(file.suffix for file in (tmp_path / "sub-a").iterdir()) == [".gz"] * 3 + [".json"] * 3


def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rename it"):
        write_samples(tmp_path / "out", "../../etc", 3, np.zeros((1, 1, *SHAPE)), rows("a")[0], {})
    assert list(tmp_path.iterdir()) == []


class Silent:
    """Stands in for the progress actor."""

    class add:  # noqa: N801
        remote = staticmethod(lambda *args: None)


def test_a_subject_that_fails_costs_the_others_nothing(model: Sadm, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    job = Job(tmp_path / "model", tmp_path / "out", (TASK,), SamplingSettings(num_steps=1), 2, 0, "phase", Silent())
    batch = [stored("a"), stored("b", present(3, 4)), stored("c")]  # b has nothing that may be observed
    answers = GenerateActor(job)(pa.Table.from_pylist(batch, schema=ROW_SCHEMA)).to_pydict()
    assert list(zip(answers["subject"], answers["frame"], strict=True)) == [
        ("a", 3), ("a", 4), ("b", -1), ("c", 3), ("c", 4),
    ]  # fmt: skip
    assert [bool(error) for error in answers["error"]] == [False, False, True, False, False]
    assert "no frame that task" in answers["error"][2]
    assert len(list((tmp_path / "out").glob("*/*/*.nii.gz"))) == 2 * 2 * 3
