"""The work of one actor, without Ray."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sadm_ray.config import DenoiserSettings, ModelSettings, NetworkSettings, SamplingSettings, TaskSettings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.generate import generation_actor
from sadm_ray.generate.actor_job import GenerationJob
from sadm_ray.generate.generation_actor import run_subject_jobs
from sadm_ray.generate.generation_plan import SubjectJob
from sadm_ray.generate.generation_record import read_predictions, read_record
from sadm_ray.generate.request import Request
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.registry import build_model
from sadm_ray.storage import Storage
from tests.data.studies import made_row, write_study

SHAPE = (4, 8, 8)
TIMES = np.linspace(0, 1, 5, dtype=np.float32)
TASK = TaskSettings(name="future", observed=(0, 2), targets=(3, -1))
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    rows = []
    for name in NAMES:
        frames = np.random.default_rng(ord(name)).random((5, *SHAPE))
        here = [slot >= 3 for slot in range(5)] if name == "d" else None  # d has nothing that may be observed
        rows.append(made_row(name, frames, here, TIMES, source_shape=(5, 12, 10)))
    return write_study(tmp_path_factory.mktemp("study"), rows, {"test": NAMES})


@pytest.fixture
def job(study: Study, tmp_path: Path) -> GenerationJob:
    torch.manual_seed(0)
    settings = ModelSettings(
        difference_scale=0.1,
        prior=NetworkSettings(widths=(16, 16), blocks=1),
        denoiser=DenoiserSettings(widths=(16, 16), blocks=1),
    )
    model = build_model(ModelConfig(shape=SHAPE, model=settings)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path / "model")
    sampling = SamplingSettings(num_steps=2, sampler="ancestral")
    out = str(tmp_path / "out")
    stored = StoredModel.read(tmp_path / "model")
    return GenerationJob(study, (stored,), (out,), out, sampling, ("samples", "mean"), False, True, 8, "cpu")


def subject_jobs(*names: str, samples: int = 2) -> list[SubjectJob]:
    return [SubjectJob(name, (Request("future", samples, 0, task=TASK),), f"key of {name}") for name in names]


def drawn(job: GenerationJob, subject: str) -> np.ndarray:
    table = pq.read_table(f"{job.out}/predictions/{subject}.parquet")
    return np.stack([np.frombuffer(row["samples"], "<f2").reshape(row["shape"]) for row in table.to_pylist()])


def files(job: GenerationJob) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(job.out).glob("sub-*/**/anat/*")}


@pytest.mark.parametrize("samples", [1, 2])
def test_exact_volumes_are_the_same_bytes_in_any_batch(job: GenerationJob, tmp_path: Path, samples: int) -> None:
    apart = replace(job, out=str(tmp_path / "apart"), batch_size=1)
    assert run_subject_jobs(subject_jobs("a", "b", "c", samples=samples), job) == 3
    for name in ("c", "a", "b"):
        run_subject_jobs(subject_jobs(name, samples=samples), apart)
    assert len(files(job)) == 3 * 2 * (3 if samples == 2 else 1) * 2
    assert files(job) == files(apart)


def test_volumes_that_are_not_exact_are_nearly_the_same(job: GenerationJob, tmp_path: Path) -> None:
    fast = replace(job, out=str(tmp_path / "fast"), exact=False)
    for each in (job, fast):
        run_subject_jobs(subject_jobs("a", "b", "c"), each)
    for name in "abc":
        np.testing.assert_allclose(drawn(fast, name), drawn(job, name), atol=1e-3)  # of float16
    assert np.abs(drawn(job, "a")[:, 0] - drawn(job, "a")[:, 1]).max() > 1e-2
    assert np.abs(drawn(job, "a") - drawn(job, "b")).max() > 1e-2


def test_more_samples_begin_with_the_same_ones(job: GenerationJob, tmp_path: Path) -> None:
    more = replace(job, out=str(tmp_path / "more"))
    run_subject_jobs(subject_jobs("a", samples=2), job)
    run_subject_jobs(subject_jobs("a", samples=11), more)  # more than go through the network together
    assert drawn(more, "a").shape[1] == 11
    np.testing.assert_allclose(drawn(more, "a")[:, :2], drawn(job, "a"), atol=1e-3)


@pytest.mark.parametrize("exact", [True, False])
def test_samples_are_dealt_among_models_in_turn(job: GenerationJob, tmp_path: Path, exact: bool) -> None:
    other = job.models[0].build()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    other.save_pretrained(tmp_path / "other")
    stored = StoredModel.read(tmp_path / "other")
    one = replace(job, exact=exact, out=str(tmp_path / "one"))
    two = replace(one, models=(stored,), digests=("other",), out=str(tmp_path / "two"))
    both = replace(one, models=one.models + two.models, digests=("own", "other"), out=str(tmp_path / "both"))
    for each in (one, two, both):
        run_subject_jobs(subject_jobs("a", "b", samples=5), each)
    for name in "ab":
        dealt, alone = drawn(both, name), (drawn(one, name), drawn(two, name))
        for sample in range(5):
            np.testing.assert_allclose(dealt[:, sample], alone[sample % 2][:, sample], atol=1e-3)
        assert np.abs(alone[0] - alone[1]).max() > 1e-2
    run_subject_jobs(subject_jobs("c", samples=1), both)
    assert drawn(both, "c").shape[1] == 0, "one volume is the estimate"
    sidecar = json.loads(next(Path(both.out).glob("sub-a/*/anat/*_desc-futureMean_synth.json")).read_text())
    assert sidecar["Checkpoint"] == ["own", "other"]


def estimated(job: GenerationJob, subject: str) -> np.ndarray:
    rows = read_predictions(str(Path(job.out) / "predictions" / f"{subject}.parquet")).to_pylist()
    return np.stack([np.frombuffer(row["estimate"], "<f2").reshape(row["shape"][2:]) for row in rows])


def test_the_estimate_depends_on_nothing_but_the_scans_and_is_the_mean_of_the_models(
    job: GenerationJob, tmp_path: Path
) -> None:
    other = job.models[0].build()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    other.save_pretrained(tmp_path / "other")
    stored = StoredModel.read(tmp_path / "other")
    jobs = {
        "one": job,
        "many": replace(job, out=str(tmp_path / "many")),
        "two": replace(job, models=(stored,), digests=("other",), out=str(tmp_path / "two")),
        "both": replace(job, models=(*job.models, stored), digests=("own", "other"), out=str(tmp_path / "both")),
    }
    for name, each in jobs.items():
        run_subject_jobs(subject_jobs("a", samples=5 if name == "many" else 1), each)
    found = {name: estimated(each, "a") for name, each in jobs.items()}
    np.testing.assert_array_equal(found["one"], found["many"])
    np.testing.assert_allclose(found["both"], (found["one"] + found["two"]) / 2, atol=2e-3)
    assert np.abs(found["one"] - found["two"]).max() > 1e-2
    files = sorted(file.name for file in Path(job.out).glob("sub-a/**/*.nii.gz"))
    assert files
    assert all("Estimate" in name for name in files)


@pytest.mark.parametrize("exact", [True, False])
def test_a_subject_that_fails_costs_the_others_nothing(job: GenerationJob, exact: bool) -> None:
    job = replace(job, exact=exact)
    assert run_subject_jobs([*subject_jobs("a", "d", "c"), *subject_jobs("nobody")], job) == 4
    records = {name: read_record(Storage(job.out), name) for name in ("a", "c", "d", "nobody")}
    failed = {name: [frame["error"] for frame in record.frames if frame["error"]] for name, record in records.items()}
    assert failed["a"] == failed["c"] == []
    assert "no frame that task 'future' may observe" in failed["d"][0]
    assert "no subject 'nobody'" in failed["nobody"][0]
    assert [len(record.files) for record in records.values()] == [2 * 3 * 2, 2 * 3 * 2, 0, 0]


def test_a_batch_that_does_not_fit_is_halved(
    job: GenerationJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, draw = [], generation_actor.draw

    def small_memory(model: SequenceModel, encoded: Any, queries: list[Any], *more: Any) -> np.ndarray:
        calls.append(len(queries))
        if len(queries) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return draw(model, encoded, queries, *more)

    monkeypatch.setattr(generation_actor, "draw", small_memory)
    job = replace(job, exact=False)
    run_subject_jobs(subject_jobs("a", "b", "c"), job)
    assert calls == [3, 1, 2, 1, 1]
    assert all(not read_record(Storage(job.out), name).failed for name in "abc")


def test_a_recorded_subject_is_not_done_again(job: GenerationJob, monkeypatch: pytest.MonkeyPatch) -> None:
    run_subject_jobs(subject_jobs("a"), job)
    monkeypatch.setattr(generation_actor, "draw", lambda *_: pytest.fail("a was drawn again"))
    assert run_subject_jobs(subject_jobs("a"), job) == 1
    other = [replace(subject_job, key="another key") for subject_job in subject_jobs("a")]
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        run_subject_jobs(other, job)


def test_sequences_have_scanned_and_generated_frames(job: GenerationJob) -> None:
    run_subject_jobs(subject_jobs("a"), replace(job, sequence=True))
    record = read_record(Storage(job.out), "a")
    assert record is not None
    assert [file["path"].rpartition("_")[2] for file in record.files if file["estimate"] == "sequence"] == [
        "synth.nii.gz", "synth.json", "synth.gif",
    ]  # fmt: skip


def test_voxels_that_are_not_finite_are_a_failure_and_no_file(
    job: GenerationJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generation_actor.draw

    def broken(model: Any, encoded: Any, queries: Any, seeds: Any, *more: Any) -> np.ndarray:
        volumes = whole(model, encoded, queries, seeds, *more)
        volumes[:, -1, -1, 0, 0, 0, 0] = np.nan
        return volumes

    monkeypatch.setattr(generation_actor, "draw", broken)
    run_subject_jobs(subject_jobs("a"), job)
    record = read_record(Storage(job.out), "a")
    assert record is not None
    assert [frame["error"] for frame in record.frames] == [
        "the model gave voxels that are not finite; nothing is written of it"
    ]
    assert files(job) == {}
