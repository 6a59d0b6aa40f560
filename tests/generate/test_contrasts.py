"""Volumes and scores of several contrasts: a file and a row each, in units and beside scans of their own. No Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from sadm_ray.config import DenoiserSettings, ModelSettings, NetworkSettings, SamplingSettings, Settings, TaskSettings
from sadm_ray.data.normalise.intensity import denormalise
from sadm_ray.data.normalise.spatial import SpatialTransform
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.errors import ConfigError
from sadm_ray.evaluate.mean_change_baseline import MeanChange
from sadm_ray.evaluate.metrics import psnr
from sadm_ray.evaluate.prediction import Truth
from sadm_ray.evaluate.sampling_quality import generate_and_compare
from sadm_ray.evaluate.score_tables import COPY_LAST, METRICS_COLUMNS, summarise, with_contrast
from sadm_ray.evaluate.subject_scores import SubjectScores, score_subjects
from sadm_ray.generate.actor_job import GenerationJob
from sadm_ray.generate.generation_actor import run_subject_jobs
from sadm_ray.generate.generation_plan import SubjectJob
from sadm_ray.generate.generation_record import read_predictions, read_record, write_manifest, write_record
from sadm_ray.generate.request import Request
from sadm_ray.generate.unprepared_study import _preparation, prepare_like
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.registry import build_model
from sadm_ray.report.viewer_volumes import TRUTH, read_volumes
from sadm_ray.storage import Storage
from sadm_ray.train.trainer import model_config
from tests.data.studies import made_together, write_study

SHAPE = (4, 8, 8)
NAMES = ("T1w", "FLAIR")
INTENSITY = ((10.0, 500.0), (0.0, 2000.0))
TIMES = np.linspace(0, 1, 5)
TASK = TaskSettings(name="future", observed=(0, 1, 2), targets=(3, 4))
HAS = {
    "a": np.array([[1, 1], [1, 1], [1, 0], [1, 1], [0, 1]], bool),  # no FLAIR just before, no T1w of the last target
    "b": np.array([[1, 0], [1, 0], [1, 0], [1, 1], [1, 1]], bool),  # no FLAIR that may be observed
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    rows = []
    for name, has in HAS.items():
        frames = np.random.default_rng(ord(name)).random((5, 2, *SHAPE))
        rows.append(made_together(name, frames, has, NAMES, INTENSITY, times=TIMES, source_shape=(5, 12, 10)))
    made = write_study(tmp_path_factory.mktemp("study"), rows, {"train": ("b",), "test": ("a", "b")})
    return replace(made, settings={"suffix": list(NAMES)})


@pytest.fixture
def job(study: Study, tmp_path: Path) -> GenerationJob:
    torch.manual_seed(0)
    network = {"widths": (16, 16), "blocks": 1}
    settings = ModelSettings(
        difference_scale=0.1, prior=NetworkSettings(**network), denoiser=DenoiserSettings(**network)
    )
    build_model(ModelConfig(shape=SHAPE, channels=2, model=settings)).save_pretrained(tmp_path / "model")
    stored, out = StoredModel.read(tmp_path / "model"), str(tmp_path / "out")
    sampling = SamplingSettings(num_steps=2, sampler="ancestral")
    return GenerationJob(study, (stored,), (out,), out, sampling, ("samples", "mean"), True, False, 8, "cpu")


@pytest.fixture
def rows(job: GenerationJob) -> list[dict[str, Any]]:
    run_subject_jobs([SubjectJob(name, (Request("future", 2, 0, task=TASK),), name) for name in HAS], job)
    files = [f"{job.out}/predictions/{name}.parquet" for name in HAS]
    return [row for file in files for row in read_predictions(file).to_pylist()]


def test_each_contrast_has_files_and_a_record_of_its_own(job: GenerationJob, rows: list[dict[str, Any]]) -> None:
    found = {(row["subject"], row["contrast"], row["frame"]): row for row in rows}
    assert found.keys() == {
        *(("a", contrast, frame) for contrast in NAMES for frame in (3, 4)),
        *(("b", "T1w", frame) for frame in (3, 4)),
    }, "of a contrast that was never observed nothing is known"
    assert not any(row["error"] for row in rows)
    assert found["a", "T1w", 3]["observed"] == found["b", "T1w", 3]["observed"] == [0, 1, 2]
    assert found["a", "FLAIR", 3]["observed"] == [0, 1]
    assert found["a", "FLAIR", 3]["shape"] == [2, 1, *SHAPE]
    grid = SpatialTransform.from_json(read_subject(job.study, "a")["grid"])
    for contrast, intensity in zip(NAMES, INTENSITY, strict=True):
        row = found["a", contrast, 3]
        paths = [file["path"] for file in row["files"]]
        first = f"sub-a/ses-time0p75/anat/sub-a_ses-time0p75_desc-futureSample1_{contrast}"
        assert {f"{first}.nii.gz", f"{first}.json"} <= set(paths)
        assert all(Path(path).name.partition(".")[0].endswith(f"_{contrast}") for path in paths)
        sidecar = json.loads(Path(job.out, f"{first}.json").read_text())
        assert sidecar["Contrast"] == contrast
        sample = np.frombuffer(row["samples"], "<f2").reshape(row["shape"])[0, 0].astype(np.float32)
        expected = denormalise(grid.inverse(sample, outside=0.0), intensity)
        written = nib.load(Path(job.out, f"{first}.nii.gz")).get_fdata().T
        np.testing.assert_allclose(written, expected, atol=2e-3 * (intensity[1] - intensity[0]))
    sequence = Path(job.out, "sub-a/anat/sub-a_mod-FLAIR_desc-futureSequence_synth.nii.gz")
    assert nib.load(sequence).shape[3] == 4, "two scans that have it, and two frames"
    record = read_record(Storage(job.out), "a")
    assert record is not None
    assert write_manifest(Storage(job.out), [record]) == len(record.files)
    manifest = pq.read_table(f"{job.out}/manifest.parquet").to_pylist()
    assert {each["contrast"] for each in manifest} == set(NAMES)
    assert all(each["contrast"] in each["path"] for each in manifest)


def test_a_time_without_a_visit_is_generated_in_each_contrast(job: GenerationJob) -> None:
    run_subject_jobs([SubjectJob("a", (Request("later", 1, 0, times=(1.5,)),), "a")], replace(job, sequence=False))
    names = sorted(file.name for file in Path(job.out).glob("sub-a/ses-time1p5/anat/*.nii.gz"))
    assert names == [f"sub-a_ses-time1p5_desc-laterEstimate_{contrast}.nii.gz" for contrast in ("FLAIR", "T1w")]
    rows = read_predictions(f"{job.out}/predictions/a.parquet").to_pylist()
    assert [(row["contrast"], row["observed"]) for row in rows] == [("T1w", [0, 1, 2, 3]), ("FLAIR", [0, 1, 3, 4])]


def scores_of(rows: list[dict[str, Any]], study: Study, change: MeanChange | None = None) -> SubjectScores:
    return score_subjects(rows, study, change, None)


def test_each_contrast_is_scored_beside_its_own_scans(study: Study, rows: list[dict[str, Any]]) -> None:
    metrics = pd.DataFrame(scores_of(rows, study).metrics, columns=METRICS_COLUMNS)
    assert not metrics["error"].any()
    targets = set(metrics[["subject", "task", "frame"]].itertuples(index=False, name=None))
    assert targets == {
        ("a", "future T1w", 3), ("a", "future FLAIR", 3), ("a", "future FLAIR", 4), ("b", "future T1w", 3),
        ("b", "future T1w", 4),
    }, "a T1w that was not scanned is no truth"  # fmt: skip
    frames = read_subject(study, "a")["frames"]
    keyed = metrics.set_index(["subject", "task", "frame", "method"])["psnr"]
    assert keyed["a", "future FLAIR", 3, COPY_LAST] == pytest.approx(psnr(frames[3, 1], frames[1, 1])), "not the visit"
    assert keyed["a", "future T1w", 3, COPY_LAST] == pytest.approx(psnr(frames[3, 0], frames[2, 0]))
    failed = score_subjects([{**rows[0], "contrast": "", "error": "no memory"}], study, None, None).metrics
    written = with_contrast(pd.concat([metrics, pd.DataFrame(failed)]))
    assert written["contrast"].tolist()[-1] == ""
    assert set(written["task"]) == {"future"}
    alone = metrics.assign(task="future")
    assert with_contrast(alone) is alone, "one contrast has no column"
    table = with_contrast(summarise(metrics))
    assert list(table.columns[:3]) == ["task", "contrast", "method"]
    assert set(table[["task", "contrast"]].itertuples(index=False, name=None)) == {
        ("future", "FLAIR"),
        ("future", "T1w"),
    }


def test_the_mean_change_is_that_of_the_contrast(study: Study, rows: list[dict[str, Any]]) -> None:
    change = MeanChange({}, None, {"T1w": MeanChange({}, np.full(SHAPE, 0.1, np.float32)), "FLAIR": None})
    metrics = pd.DataFrame(scores_of(rows, study, change).metrics)
    tasks = set(metrics[metrics["method"] == "mean change"]["task"])
    assert tasks == {"future T1w"}
    assert MeanChange({}, None).of("") == MeanChange({}, None)


def test_predictions_of_a_contrast_that_the_study_lacks_are_told(study: Study, rows: list[dict[str, Any]]) -> None:
    (found,) = scores_of([{**rows[0], "contrast": "T2w"}], study).metrics
    assert "predicted is the contrast 'T2w', the study has T1w and FLAIR; generate again" in found["error"]


def test_the_viewer_shows_one_contrast_at_a_time(study: Study, job: GenerationJob, rows: list[dict[str, Any]]) -> None:
    volumes = read_volumes(study, f"{job.out}/predictions", "a", "future FLAIR")
    assert list(volumes.frames) == [3, 4]
    np.testing.assert_array_equal(volumes.quantities[TRUTH], Truth.read(study, "a", contrast="FLAIR").frames[[3, 4]])


def test_validation_compares_the_contrasts_that_the_target_has(study: Study, job: GenerationJob) -> None:
    stored = {name: read_subject(study, name) for name in HAS}
    found = list(generate_and_compare(job.models[0].build(), list(stored.values()), [TASK], job.sampling, 0))
    assert {(each.subject, each.channel, each.frame) for each in found} == {
        ("a", 0, 3), ("a", 1, 3), ("a", 1, 4), ("b", 0, 3), ("b", 0, 4),
    }  # fmt: skip
    for each in found:
        its = of_contrast(stored[each.subject], each.channel)
        np.testing.assert_array_equal(each.truth, its["frames"][each.frame, 0])
        np.testing.assert_array_equal(each.copied, its["frames"][each.copied_slot, 0])
    assert {each.copied_slot for each in found if each.subject == "a" and each.channel == 1} == {1}


def test_records_of_earlier_versions_have_no_contrast(tmp_path: Path) -> None:
    row: Mapping[str, Any] = {"subject": "x", "task": "t", "frame": 1, "time": 0.5, "observed": [0], "error": ""}
    write_record(Storage(str(tmp_path)), "x", "key", [{**row, "files": []}])
    file = tmp_path / "predictions" / "x.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["contrast"]), file)
    (read,) = read_predictions(str(file)).to_pylist()
    assert read["contrast"] == ""
    record = read_record(Storage(str(tmp_path)), "x")
    assert record is not None
    assert record.frames[0]["contrast"] == ""


def test_a_model_says_which_contrasts_it_has(study: Study, tmp_path: Path) -> None:
    data = {"layout": "bids", "suffix": list(NAMES), "frames": None, "shape": [8, 16, 16]}
    tasks = [{"name": "t", "observed": [0], "targets": [-1]}]
    settings = Settings.model_validate({"data": data, "generate": {"tasks": tasks, "study": str(tmp_path)}})
    config = model_config(settings, replace(study, settings=settings.data.model_dump(mode="json")))
    assert config.channels == 2
    assert config.prepared["suffix"] == list(NAMES)
    alone = settings.model_copy(update={"data": settings.data.model_copy(update={"suffix": "T1w"})})
    one = model_config(alone, replace(study, settings=alone.data.model_dump(mode="json")))
    assert one.channels == 1
    assert "suffix" not in one.prepared
    other = settings.model_copy(
        update={"data": settings.data.model_copy(update={"layout": "manifest", "suffix": "T1w"})}
    )
    wanted = settings.data.model_copy(update={"suffix": "T2w"})
    assert _preparation(settings.model_copy(update={"data": wanted}), config, str(tmp_path)).contrasts == NAMES
    with pytest.raises(ConfigError, match="the model generates T1w and FLAIR together, which goes with layout=bids"):
        prepare_like(other, config, str(tmp_path), str(tmp_path / "out"))
