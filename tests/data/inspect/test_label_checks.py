"""What `inspect` says of label maps: who has which, on which grid, with what in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from sadm_ray.config import DataSettings
from sadm_ray.config.settings_file import load_settings
from sadm_ray.data.find import find_subjects
from sadm_ray.data.find.label_files import find_labels
from sadm_ray.data.inspect.inspection import Inspection, inspect_study, inspect_subject
from sadm_ray.data.inspect.inspection_table import render
from sadm_ray.data.inspect.label_checks import label_warnings, labels_in
from tests.data.patients import AFFINE, scan_of, write_bids, write_table

SHAPE = (6, 5, 4)
LUT = "index name\n1 ventricle\n2 cortex"


def write_labels(root: Path, subject: str, session: str, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path = scan_of(root / "seg", subject, session, "dseg")
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def labels(*values: int) -> np.ndarray:
    """A plane of each value."""
    voxels = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(values):
        voxels[place] = value
    return voxels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of four visits three have label maps, all good."""
    write_bids(tmp_path, {"01": {"1": 60, "2": 62}, "02": {"1": 71, "2": 73}}, column="age")
    write_table(tmp_path / "seg" / "dseg.tsv", LUT)
    for subject, session in (("01", "1"), ("01", "2"), ("02", "2")):
        write_labels(tmp_path, subject, session, labels(1, 2, 2))
    return tmp_path


def inspect(root: Path, **settings: Any) -> Inspection:
    usual = {"layout": "bids", "root": str(root), "labels": "seg", "frames": None}
    data = DataSettings.model_validate(usual | settings)
    catalog = find_subjects(str(root), data)
    known = find_labels(str(root), "bids", data.labels, data.suffixes)
    records, problems = [], [*catalog.problems, *known.problems]
    for subject in catalog.subjects:
        record, wrong = inspect_subject(subject, str(root), data, "years", None, known)
        records.append(record | {"split": "train"})
        problems += wrong
    return Inspection(str(root), "years", tuple(records), (*problems, *label_warnings(records, known)))


def lines(found: Inspection, *, fatal: bool = False) -> list[str]:
    """What is left out; or the warnings about label maps, without those about scans, which are noise here."""
    return [str(problem) for problem in found.problems if problem.fatal is fatal and (fatal or "seg" in problem.file)]


def shown(found: Inspection) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(render(found), soft_wrap=True)
    return captured.get()


def test_who_has_which(root: Path) -> None:
    found = inspect(root)
    first, second = found.records
    assert [len(visit["labels"]) for visit in (*first["visits"], *second["visits"])] == [1, 1, 0, 1]
    (facts,) = second["visits"][1]["labels"]
    assert facts["file"] == str(root / "seg/sub-02/ses-2/anat/sub-02_ses-2_dseg.nii.gz")
    assert (facts["lies"], facts["unknown"], facts["frame"]) == ("same", [], None)
    assert facts["structures"]["cortex"]["voxels"] == 2 * 5 * 4
    voxel_ml = float(np.prod(np.linalg.norm(AFFINE[:3, :3], axis=0))) / 1000
    assert facts["structures"]["cortex"]["ml"] == pytest.approx(40 * voxel_ml, rel=1e-5)
    assert (lines(found), found.failed) == ([], False)
    json.dumps(found.to_json())
    text = shown(found)
    assert "label maps: 3; with ventricle 3, cortex 3" in text
    assert [row for row in text.splitlines() if "sub" not in row and "2: 1, 2" in row]


def test_a_study_without_label_maps_has_no_such_column(root: Path) -> None:
    assert "label maps" not in shown(inspect(root, labels=None))


def test_what_looks_wrong_is_told(root: Path) -> None:
    write_labels(root, "01", "1", labels(1, 7))
    write_labels(root, "01", "2", labels())
    fine = AFFINE.astype(np.float64) @ np.diag([0.5, 1, 1, 1])
    write_labels(root, "02", "2", np.repeat(labels(1, 2, 2), 2, axis=0), fine)
    write_labels(root, "03", "1", labels(1))
    told = lines(inspect(root))
    expected = (
        "sub-01_ses-1_dseg.nii.gz: has the values 7, which no table names",
        "sub-01_ses-1_dseg.nii.gz: has no voxel of cortex, which other label maps have",
        "sub-01_ses-2_dseg.nii.gz: is a label map without any structure",
        "sub-02_ses-2_dseg.nii.gz: is a label map on another grid than its scan; it is brought there by its header",
        "sub-03_ses-1_dseg.nii.gz: 1 label maps are of no visit",
    )
    assert len(told) == len(expected)
    for part in expected:
        assert any(part in line for line in told), part


def test_what_cannot_be_used_is_left_out_and_the_scan_stays(root: Path) -> None:
    broken = write_labels(root, "01", "1", labels(1))
    broken.write_bytes(broken.read_bytes()[:60])
    write_labels(root, "01", "2", labels(1) + np.float32(0.5))
    scan_of(root / "seg", "02", "2", "desc-two_dseg")
    found = inspect(root)
    assert [record["usable"] for record in found.records] == [True, True]
    assert not [each for record in found.records for each in labels_in(record)]
    told = lines(found, fatal=True)
    assert [line.partition(": ")[0] for line in told] == ["01", "01", "02"]
    assert all(
        f": its label map is not used: {why}" in line
        for why, line in zip(("breaks off", "no label map: whole numbers", "2 label maps fit it"), told, strict=True)
    )


def test_two_contrasts_of_a_visit_have_one_label_map(root: Path) -> None:
    for subject in ("01", "02"):
        for session in ("1", "2"):
            scan_of(root, subject, session, "FLAIR")
    found = inspect(root, suffix=("T1w", "FLAIR"))
    assert [len(labels_in(record)) for record in found.records] == [2, 1]
    assert lines(found) == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_the_command_reads_label_maps_on_the_workers(root: Path) -> None:
    settings = load_settings(None, [f"data.root={root}", "data.layout=bids", "data.labels=seg"])
    found = inspect_study(settings, str(root))
    assert [len(labels_in(record)) for record in found.records] == [2, 1]


@pytest.mark.real_data
@pytest.mark.parametrize(("folder", "reset"), [("acdc", 4), ("acdc_native_edes", 0)])
def test_label_maps_of_real_hearts(real_data: Path, folder: str, reset: int) -> None:
    """Twelve patients at end-diastole and end-systole, beside their cine or their two frames."""
    root = str(real_data / folder)
    data = DataSettings.model_validate({"root": root, "frames": 12 if folder == "acdc" else 2})
    known, maps = find_labels(root, "acdc"), []
    catalog = find_subjects(root, data)
    for subject in catalog.subjects[:12]:
        record, _ = inspect_subject(subject, catalog.folder, data, "", None, known)
        maps.append(labels_in(record))
    assert [len(each) for each in maps] == [2] * 12
    for ed, es in maps:
        assert (ed["lies"], es["lies"], ed["unknown"], es["unknown"]) == ("same", "same", [], [])
        assert ed["structures"]["LV cavity"]["voxels"] > es["structures"]["LV cavity"]["voxels"] > 0
    assert sum(ed["structures"]["LV cavity"]["ml"] is None for ed, _ in maps) == reset
