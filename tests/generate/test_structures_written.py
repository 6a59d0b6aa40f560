"""From an observed label map to label maps, volumes and scores of what is generated, by one actor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from sadm_ray.config import DerivedSettings, GenerateSettings
from sadm_ray.data.find.label_files import LabelFile, LabelFiles, _scan_key
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.evaluate.subject_scores import score_subjects
from sadm_ray.generate.actor_job import GenerationJob
from sadm_ray.generate.derived_numbers import DERIVED
from sadm_ray.generate.generation_actor import run_subject_jobs
from sadm_ray.generate.generation_job import _write_structures
from sadm_ray.generate.generation_record import read_predictions, read_record
from sadm_ray.generate.structure_volumes import SUMMARY, VOLUMES
from sadm_ray.storage import Storage
from tests.data.studies import AFFINE, made_row, write_study
from tests.generate.test_generation_actor import SHAPE, TIMES, job, subject_jobs  # noqa: F401

OWN = (5, 12, 10)
NAMES = {3: "cavity", 7: "wall"}
LABELLED = {"a": (0, 4), "b": ()}


def label_map(rows: int) -> np.ndarray:
    """A cavity of so many rows of the own grid, and three rows of wall below."""
    labels = np.zeros(OWN, np.int16)
    labels[:, :rows], labels[:, rows : rows + 3] = 3, 7
    return labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    """Visits 0 to 4, of which the first and the last of subject a have a label map."""
    rows = []
    for name in LABELLED:
        frames = np.random.default_rng(ord(name)).random((5, *SHAPE))
        sources = [
            {"file": f"{name}{slot}.nii", "frame": None, "session": str(slot), "sha256": ""} for slot in range(5)
        ]
        rows.append(made_row(name, frames, None, TIMES, source_shape=OWN, sources=json.dumps(sources)))
    return write_study(folder / "shards", rows, {"test": list(LABELLED)})


@pytest.fixture(scope="module")
def labels(folder: Path, study: Study) -> LabelFiles:
    found = {}
    for name, slots in LABELLED.items():
        for slot in slots:
            nib.save(nib.Nifti1Image(label_map(4 + slot // 2).T, AFFINE), folder / f"{name}{slot}_dseg.nii.gz")
            size = (folder / f"{name}{slot}_dseg.nii.gz").stat().st_size
            found[_scan_key(Storage(str(folder), scattered=True), f"{name}{slot}.nii", None)] = [
                LabelFile(f"{name}{slot}_dseg.nii.gz", size, NAMES)
            ]
    return LabelFiles(str(folder), "manifest", found)


@pytest.fixture
def labelled(job: GenerationJob, labels: LabelFiles) -> GenerationJob:  # noqa: F811
    return replace(job, labels=labels, estimates=("estimate", "samples"))


def written(job: GenerationJob) -> dict[str, Path]:  # noqa: F811
    return {file.name: file for file in sorted(Path(job.out).glob("sub-*/**/*_dseg.nii.gz"))}


def test_label_maps_volumes_and_scores(labelled: GenerationJob, study: Study, labels: LabelFiles) -> None:
    run_subject_jobs(subject_jobs("a", "b", samples=3), labelled)
    maps = written(labelled)
    assert len(maps) == 2 * 4, "of both targets the estimate and three samples"
    assert all(name.startswith("sub-a") for name in maps), "b has no label map"
    for file in maps.values():
        image = nib.load(file)
        assert image.shape == OWN[::-1]
        np.testing.assert_array_equal(image.affine, AFFINE)
        assert set(np.unique(np.asanyarray(image.dataobj))) <= {0, *NAMES}

    record = read_record(Storage(labelled.out), "a")
    assert record is not None
    assert {file["path"].rpartition("/")[2] for file in record.files} >= set(maps)
    _write_structures(Storage(labelled.out), [[]], [record], GenerateSettings(level=0.8), "years")
    assert not (Path(labelled.out) / DERIVED).exists()
    volumes = pd.read_csv(Path(labelled.out) / VOLUMES)
    seen = volumes[volumes["origin"] == "observed"]
    assert (seen["frame"].unique().tolist(), seen["structure"].tolist()) == ([0], ["cavity", "wall"])
    cells = (label_map(4) == 3).sum()
    assert seen["voxels"].iloc[0] == pytest.approx(cells, rel=0.05)
    assert seen["ml"].iloc[0] == pytest.approx(cells * 1.5 * 1.5 * 8 / 1000, rel=0.05)
    generated = volumes[volumes["origin"] == "generated"]
    assert sorted(generated["sample"].unique()) == [0, 1, 2, 3]
    assert generated.groupby(["frame", "structure"])["ml"].nunique().min() > 1, "samples differ"
    summary = pd.read_csv(Path(labelled.out) / SUMMARY)
    assert (summary.loc[summary["origin"] == "generated", "low_ml"] >= 0).all()

    rows = [
        row for name in ("a", "b") for row in read_predictions(f"{labelled.out}/predictions/{name}.parquet").to_pylist()
    ]
    scores = pd.DataFrame(score_subjects(rows, study, None, labels).structures)
    assert scores["frame"].unique().tolist() == [4], "the other target has no label map of its own"
    assert set(scores["method"]) == {"copy-last", "estimate"}
    ours = scores[scores["method"] == "estimate"]
    assert ours["dice"].between(0.2, 1).all()
    assert ours["interval_ml"].gt(0).all()
    assert ours["interval_holds"].isin([0, 1]).all()
    assert scores.loc[scores["method"] == "copy-last", "interval_ml"].isna().all()


def test_one_volume_has_the_label_map_of_the_estimate(labelled: GenerationJob) -> None:
    run_subject_jobs(subject_jobs("a", samples=1), labelled)
    assert len(written(labelled)) == 2
    assert all("Estimate" in name for name in written(labelled))


def test_samples_in_turn_move_as_samples_together(labelled: GenerationJob, tmp_path: Path) -> None:
    turns = replace(labelled, out=str(tmp_path / "turns"), exact=False, batch_size=1)
    for each in (labelled, turns):
        run_subject_jobs(subject_jobs("a", samples=3), each)
    for name, file in written(labelled).items():
        one, other = (np.asanyarray(nib.load(each).dataobj) for each in (file, written(turns)[name]))
        assert (one != other).mean() < 0.01, name


def test_a_damaged_label_map_costs_the_volumes_nothing(
    labelled: GenerationJob, labels: LabelFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a0_dseg.nii.gz").write_bytes(b"none")
    key = _scan_key(Storage(str(tmp_path), scattered=True), "a0.nii", None)
    damaged = replace(labels, folder=str(tmp_path), found={key: [LabelFile("a0_dseg.nii.gz", 4, NAMES)]})
    run_subject_jobs(subject_jobs("a"), replace(labelled, labels=damaged))
    assert not written(labelled)
    assert "a0_dseg.nii.gz" in caplog.text
    assert list(Path(labelled.out).glob("sub-a/**/*Sample1_synth.nii.gz"))


def test_numbers_derived_from_volumes_are_scored(labelled: GenerationJob, study: Study, labels: LabelFiles) -> None:
    run_subject_jobs(subject_jobs("a", samples=3), labelled)
    ef = DerivedSettings(name="ef", kind="ejection_fraction", structures=("cavity",))
    record = read_record(Storage(labelled.out), "a")
    assert record is not None
    _write_structures(Storage(labelled.out), [[]], [record], GenerateSettings(derived=(ef,)), study.time_unit)
    written_numbers = pd.read_csv(Path(labelled.out) / DERIVED)
    assert written_numbers["frame"].tolist() == [3, 4]
    rows = read_predictions(f"{labelled.out}/predictions/a.parquet").to_pylist()
    scores = pd.DataFrame(score_subjects(rows, study, None, labels, (ef,)).derived)
    assert scores[["frame", "method"]].to_numpy().tolist() == [[4, "copy-last"], [4, "estimate"]]
    copied, ours = scores.to_dict("records")
    assert copied["true"] == ours["true"] == pytest.approx(100 * (1 - 6 / 4)), "it has grown by half"
    assert (copied["predicted"], copied["error"]) == (0, 50)
    assert ours["predicted"] == pytest.approx(written_numbers["estimate"][1])
    assert ours["interval_width"] == pytest.approx(written_numbers["high"][1] - written_numbers["low"][1])
    assert ours["interval_holds"] in (0, 1)
    assert np.isnan(ours["corrected_width"])
