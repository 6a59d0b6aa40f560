"""Label maps beside the scans of a study: found, brought to the prepared grid, and scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from sadm_ray.config import DataSettings
from sadm_ray.data.find import find_subjects
from sadm_ray.data.find.label_files import label_stem
from sadm_ray.data.label_maps import LabelMaps, labels_of
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.data.shards.subject_row import prepare_subject
from sadm_ray.evaluate.evaluation_job import evaluate_predictions
from sadm_ray.evaluate.score_tables import (
    STRUCTURES_COLUMNS,
    VENTRICLES_COLUMNS,
    summarise_structures,
    summarise_ventricles,
)
from sadm_ray.evaluate.subject_scores import SubjectScores, score_subjects
from sadm_ray.generate.generation_record import PREDICTIONS, write_record
from sadm_ray.storage import Storage
from tests.data.patients import AFFINE, write_single_frames, write_table
from tests.data.studies import write_study

RADII = {"patient001": {1: 18.0, 9: 13.0}, "patient002": {1: 17.0, 9: 14.0}}
"""Of each patient's cavity in mm, at end-diastole and at end-systole."""
VOXEL_ML = float(np.prod(np.linalg.norm(AFFINE[:3, :3], axis=0))) / 1000


def cavity(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball with a soft border, away from the middle of a square body, and its labels (x y z)."""
    shape = (44, 48, 6)
    steps = np.linalg.norm(AFFINE[:3, :3], axis=0)
    offsets = (np.indices(shape) - (np.reshape(shape, (3, 1, 1, 1)) - 1) / 2) * steps.reshape(3, 1, 1, 1)
    away = np.sqrt(np.square(offsets - np.reshape((6, -8, 4), (3, 1, 1, 1))).sum(axis=0))
    body = (np.abs(offsets[:2]) < 28).all(axis=0)
    return (100.0 * body + 700 / (1 + np.exp(away - radius))).astype(np.int16), 3 * (away < radius).astype(np.uint8)


def label_of(root: Path, name: str, frame: int) -> Path:
    return root / name / f"{name}_frame{frame:02d}_gt.nii.gz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, radii in RADII.items():
        made = {frame: cavity(radius) for frame, radius in radii.items()}
        write_single_frames(tmp_path / "acdc", name, {frame: image for frame, (image, _) in made.items()}, ed=1, es=9)
        for frame, (_, labels) in made.items():
            nib.save(nib.Nifti1Image(labels, AFFINE), label_of(tmp_path / "acdc", name, frame))
    return tmp_path / "acdc"


def prepared(root: Path, **settings: Any) -> Study:
    """The study at `root`, prepared without Ray."""
    data = DataSettings.model_validate({"root": str(root), "frames": 2, "shape": (6, 40, 40), **settings})
    subjects = find_subjects(str(root), data).subjects
    rows = [prepare_subject(subject, Storage(str(root)), data).row for subject in subjects]
    study = write_study(root.parent / "shards", [row for row in rows if row], {"test": tuple(RADII)})
    return replace(study, settings=data.model_dump(mode="json"))


def predictions(study: Study, names: Sequence[str]) -> list[dict[str, Any]]:
    """Two samples of end-systole, both the true one."""
    rows = []
    for name in names:
        samples = np.stack([read_subject(study, name)["frames"][1]] * 2)
        kept = {"samples": samples.astype("<f2").tobytes(), "shape": list(samples.shape), "files": [], "error": ""}
        rows.append({"subject": name, "task": "future", "frame": 1, "time": 1.0, "observed": [0], **kept})
    return rows


def scored(study: Study) -> SubjectScores:
    return score_subjects(predictions(study, list(RADII)), study, None, labels_of(study))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"shape": (8, 36, 32), "spacing": (8.0, 2.0, 2.0)},
        {"orientation": "canonical", "crop": "foreground", "spacing": (8.0, 1.8, 2.0), "shape": (7, 36, 32)},
    ],
)
def test_labels_lie_on_the_prepared_image(root: Path, how: dict[str, Any]) -> None:
    study = prepared(root, **how)
    row = read_subject(study, "patient001")
    maps = LabelMaps.of(row, labels_of(study))
    for slot, radius in enumerate(RADII["patient001"].values()):
        found = maps.at(slot)
        assert found is not None
        ball, bright = found.labels == 3, row["frames"][slot, 0] > 0.6
        assert 2 * (ball & bright).sum() / (ball.sum() + bright.sum()) > 0.9
        labelled = cavity(radius)[1].astype(bool).sum() * VOXEL_ML
        assert ball.sum() * np.prod(maps.voxel_mm) / 1000 == pytest.approx(labelled, rel=0.1)
    assert not maps.problems


def test_a_shrinking_cavity_is_measured(root: Path) -> None:
    found = pd.DataFrame(scored(prepared(root)).ventricles)
    assert list(found.columns) == VENTRICLES_COLUMNS[:-1]
    assert set(found["structure"]) == {"LV cavity"}
    found = found.set_index(["subject", "method"])
    for name, radii in RADII.items():
        large, small = (cavity(radius)[1].astype(bool).sum() * VOXEL_ML for radius in radii.values())
        copied, sample, mean = (found.loc[(name, method)] for method in ("copy-last", "sample", "mean of 2"))
        assert copied["true_ml"] == pytest.approx(small, rel=0.05)
        assert copied["predicted_ml"] == pytest.approx(large, rel=0.05)
        assert copied["error_ml"] == pytest.approx(large - small, rel=0.2)
        assert sample["error_ml"] == pytest.approx(sample["own_error_ml"], abs=0.1)  # it is the truth, in float16
        assert mean["error_ml"] == pytest.approx(sample["error_ml"])
        assert sample["own_error_ml"] < 0.3 * copied["error_ml"]
    table = summarise_ventricles(found.reset_index())
    assert table["method"].tolist() == ["copy-last", "sample", "mean of 2"]
    assert table["subjects"].tolist() == [2, 2, 2]


def test_without_labels_there_are_no_rows_and_no_problems(root: Path) -> None:
    study = prepared(root)
    label_of(root, "patient001", 1).unlink()
    label_of(root, "patient002", 9).unlink()
    found = scored(study)
    assert len(found.metrics) == 6
    assert (found.ventricles, found.problems) == ([], [])
    root.rename(root.with_name("elsewhere"))
    assert (scored(study).ventricles, scored(study).problems) == ([], [])
    for known in ({}, {**study.settings, "root": None}):
        assert labels_of(replace(study, settings=known)) is None
    bids = labels_of(replace(study, settings={**study.settings, "layout": "bids"}))
    assert bids is not None
    assert (bids.found, bids.problems) == ({}, ())


def test_a_damaged_label_map_is_listed_once_and_the_rest_stays(root: Path) -> None:
    study = prepared(root)
    damaged = label_of(root, "patient002", 1)
    damaged.write_bytes(damaged.read_bytes()[:100])
    found = scored(study)
    assert [line.split(": ")[:2] for line in found.problems] == [["patient002", str(damaged)]]
    assert {row["subject"] for row in found.ventricles} == {"patient001"}
    assert {(row["subject"], row["error"]) for row in found.metrics} == {("patient001", ""), ("patient002", "")}
    for voxels, reason in ((cavity(15.0)[1][1:], "where the grid has"), (cavity(15.0)[0] + 0.5, "no label map")):
        nib.save(nib.Nifti1Image(voxels, AFFINE), damaged)
        assert reason in scored(study).problems[0]


def test_labels_of_a_cine_are_named_by_the_frame() -> None:
    assert label_stem("training/a/a_4d.nii.gz", 11) == "training/a/a_frame12_gt"
    assert label_stem("a/a_frame01.nii", None) == "a/a_frame01_gt"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_the_job_writes_the_volumes(root: Path, tmp_path: Path) -> None:
    study = prepared(root)
    label_of(root, "patient002", 9).write_bytes(b"no NIfTI")
    for name in RADII:
        write_record(Storage(str(tmp_path)), name, "key", predictions(study, [name]))
    found = evaluate_predictions(study, tmp_path / PREDICTIONS, tmp_path / "evaluation", pictures=0)
    assert found.ventricles["method"].tolist() == ["copy-last", "sample", "mean of 2"]
    assert [line.split(": ")[0] for line in found.problems] == ["patient002"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "evaluation" / "ventricles.parquet"), found.ventricles)
    table = pd.read_csv(tmp_path / "evaluation" / "ventricles-table.csv")
    assert table["structure"].tolist() == ["LV cavity"] * 3
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "evaluation" / "structures.parquet"), found.structures)
    table = pd.read_csv(tmp_path / "evaluation" / "structures-table.csv")
    assert table[["method", "structure"]].to_numpy().tolist() == [["copy-last", "LV cavity"]]
    assert "own_error_ml" in json.loads((tmp_path / "evaluation" / "definitions.json").read_text())


def test_structures_are_scored_beside_the_copied_label_map(root: Path) -> None:
    found = scored(prepared(root))
    assert [(row["subject"], row["method"], row["structure"]) for row in found.structures] == [
        ("patient001", "copy-last", "LV cavity"),
        ("patient002", "copy-last", "LV cavity"),
    ]
    assert list(found.structures[0]) == STRUCTURES_COLUMNS[:-1]
    for row in found.structures:
        large, small = (int(cavity(radius)[1].astype(bool).sum()) for radius in RADII[row["subject"]].values())
        assert row["dice"] == pytest.approx(2 * small / (small + large), abs=0.02), "one ball lies in the other"
        assert row["true_ml"] == pytest.approx(small * VOXEL_ML, rel=1e-5)
        assert (row["true_voxels"], row["predicted_voxels"]) == (small, large), "counted on the own grid"
        assert row["error_ml"] == pytest.approx((large - small) * VOXEL_ML, rel=1e-5)
        shrinks = RADII[row["subject"]][1] - RADII[row["subject"]][9]
        assert 0.7 * shrinks < row["hd95_mm"] < shrinks + 8  # a slice is 8 mm thick
    assert found.remarks == []
    table = summarise_structures(pd.DataFrame(found.structures))
    assert table[["task", "method", "structure", "subjects"]].to_numpy().tolist() == [
        ["future", "copy-last", "LV cavity", 2]
    ]


def test_sizes_that_were_reset_are_told_and_give_voxels(root: Path) -> None:
    """As in a third of ACDC's cines: the table of the ventricles is in ml, so they are not in it."""
    for file in (root / "patient002").glob("*.nii.gz"):
        nib.save(nib.Nifti1Image(np.asanyarray(nib.load(file).dataobj), np.eye(4)), file)
    found = scored(prepared(root))
    assert {row["subject"] for row in found.ventricles} == {"patient001"}
    (row,) = [row for row in found.structures if row["subject"] == "patient002"]
    assert all(np.isnan(row[name]) for name in ("hd95_mm", "true_ml", "predicted_ml", "error_ml"))
    assert row["true_voxels"] == cavity(14.0)[1].astype(bool).sum()
    assert row["dice"] > 0.5
    (line,) = found.remarks
    assert line.startswith("patient002: ")
    assert "volumes are in voxels" in line


def test_values_that_no_table_names_are_told(root: Path) -> None:
    damaged = label_of(root, "patient001", 9)
    labels = cavity(13.0)[1]
    labels[0, 0, :2] = 4
    nib.save(nib.Nifti1Image(labels, AFFINE), damaged)
    found = scored(prepared(root))
    assert [line.split(": ", 2)[1:] for line in found.remarks] == [
        [str(damaged), "has the values 4, which no table names; they are not scored"]
    ]
    assert {row["structure"] for row in found.structures} == {"LV cavity"}


def test_a_structure_that_has_vanished(root: Path) -> None:
    nib.save(nib.Nifti1Image(0 * cavity(13.0)[1], AFFINE), label_of(root, "patient001", 9))
    row = scored(prepared(root)).structures[0]
    assert (row["dice"], row["empty"], row["true_ml"]) == (0, 1, 0)
    assert np.isnan(row["hd95_mm"])


FINE = AFFINE.astype(np.float64) @ np.diag([0.5, 0.5, 1, 1])
FINE[:3, 3] = (AFFINE @ [-0.25, -0.25, 0, 1])[:3]


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    """A BIDS study of two people at two visits, the second one on a finer grid; names in a table."""
    root = tmp_path / "bids"
    for name, radii in RADII.items():
        for session, radius in enumerate(radii.values(), start=1):
            stem = f"sub-{name}/ses-{session}/anat/sub-{name}_ses-{session}"
            for voxels, file in zip(cavity(radius), (f"{stem}_T1w", f"derivatives/seg/{stem}_dseg"), strict=True):
                path = root / f"{file}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                fine = voxels.repeat(2, axis=0).repeat(2, axis=1) if session == 2 else voxels
                nib.save(nib.Nifti1Image(fine, FINE if session == 2 else AFFINE), path)
        write_table(root / f"sub-{name}" / f"sub-{name}_sessions.tsv", "session_id age\nses-1 60\nses-2 62")
    write_table(root / "derivatives" / "seg" / "dseg.tsv", "index name\n3 ventricle\n4 cortex")
    return root


def test_label_maps_of_visits_on_another_grid(visits: Path) -> None:
    how = {"layout": "bids", "labels": "derivatives/seg", "register": "header", "frames": None}
    study = prepared(visits, **how, orientation="canonical", shape=(6, 40, 44))
    row = read_subject(study, "patient001")
    maps = LabelMaps.of(row, labels_of(study))
    for slot, radius in enumerate(RADII["patient001"].values()):
        found = maps.at(slot)
        assert found is not None
        ball, bright = found.mask("ventricle"), row["frames"][slot, 0] > 0.6
        assert 2 * (ball & bright).sum() / (ball.sum() + bright.sum()) > 0.9
        assert ball.sum() * maps.own_voxels == pytest.approx(cavity(radius)[1].astype(bool).sum(), rel=0.05)
    rows = scored(study)
    assert [(row["subject"], row["structure"]) for row in rows.structures] == [
        ("patient001", "ventricle"),
        ("patient002", "ventricle"),
    ]
    assert (rows.ventricles, rows.problems, rows.remarks) == ([], [], [])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_a_folder_of_labels_that_is_gone_is_told(visits: Path, tmp_path: Path) -> None:
    study = prepared(visits, layout="bids", labels="derivatives/gone", register="header", frames=None)
    for name in RADII:
        write_record(Storage(str(tmp_path)), name, "key", predictions(study, [name]))
    found = evaluate_predictions(study, tmp_path / PREDICTIONS, tmp_path / "evaluation", pictures=0)
    assert found.structures.empty
    assert len(found.metrics) == 6
    (line,) = found.problems
    assert "derivatives/gone: no such folder; data.labels must be" in line


def test_shares_of_structures_for_moving_them(root: Path) -> None:
    row = read_subject(study := prepared(root), "patient001")
    maps = LabelMaps.of(row, labels_of(study))
    found = maps.shares_at(0)
    assert found is not None
    assert (found.structures, found.values) == (("LV cavity",), (3,))
    labelled = cavity(18.0)[1].astype(bool).sum()
    assert found.shares.sum() * maps.own_voxels == pytest.approx(labelled, rel=0.01)
    label_of(root, "patient001", 9).unlink()
    assert LabelMaps.of(row, labels_of(study)).shares_at(1) is None
