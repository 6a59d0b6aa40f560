"""Label maps as files have them, and on the grid of the first visit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from sadm_ray.data.find.label_files import LabelFile
from sadm_ray.data.find.label_names import Names
from sadm_ray.data.read.label_reader import LabelMap, read_label_map
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage
from tests.data.patients import AFFINE

SHAPE = (20, 24, 10)
NAMES = {1: "ventricle", 2: "ventricle", 5: "cortex", 8: "stem"}


@dataclass(frozen=True)
class Grid:
    file: str
    shape: tuple[int, int, int]
    affine: np.ndarray


FIRST = Grid("first.nii.gz", SHAPE, AFFINE.astype(np.float64))


def drawn() -> np.ndarray:
    """Boxes of three values, x y z."""
    labels = np.zeros(SHAPE, np.int16)
    labels[4:10, 6:18, 2:6], labels[6:8, 8:12, 3:5], labels[12:16, 4:9, 5:8] = 5, 1, 2
    return labels


def read(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray = AFFINE,
    *,
    names: Names = NAMES,
    frame: int | None = None,
    by_voxel: bool = False,
) -> LabelMap:
    path = folder / "labels.nii.gz"
    nib.save(nib.Nifti1Image(voxels, affine), path)
    file = LabelFile(path.name, path.stat().st_size, names, by_voxel=by_voxel)
    return read_label_map(Storage(str(folder)), file, frame)


def test_structures_and_their_voxels(tmp_path: Path) -> None:
    found = read(tmp_path, drawn())
    np.testing.assert_array_equal(found.labels, drawn().T)
    assert found.structures == ("ventricle", "cortex", "stem")
    assert found.counts() == {"ventricle": 16 + 60, "cortex": 288 - 16, "stem": 0}
    assert found.mask("ventricle").sum() == 76
    assert found.unknown() == []
    assert found.voxel_ml == pytest.approx(np.prod(np.linalg.norm(AFFINE[:3, :3], axis=0)) / 1000, rel=1e-5)
    assert found.lies(FIRST) == "same"


def test_values_without_a_name(tmp_path: Path) -> None:
    assert read(tmp_path, drawn(), names={5: "cortex"}).unknown() == [1, 2]
    unnamed = read(tmp_path, drawn(), names={})
    assert unnamed.structures == ("label 1", "label 2", "label 5")
    assert unnamed.unknown() == []


def test_large_values_stay_exact_and_fractions_are_refused(tmp_path: Path) -> None:
    large = np.where(drawn() == 5, 312_782_547, 0).astype(np.int32)
    assert read(tmp_path, large, names={}).structures == ("label 312782547",)
    for wrong in (drawn() + 0.5, np.where(drawn() == 5, np.nan, 0), np.where(drawn() == 5, 1e12, 0)):
        with pytest.raises(DataError, match="no label map: whole numbers are expected"):
            read(tmp_path, wrong.astype(np.float32))


def test_label_maps_of_a_series(tmp_path: Path) -> None:
    series = np.stack([drawn(), np.zeros_like(drawn())], axis=3)
    assert read(tmp_path, series, frame=0).counts()["cortex"] > 0
    assert read(tmp_path, series, frame=1).counts()["cortex"] == 0
    with pytest.raises(DataError, match="one volume; it has 2 volumes"):
        read(tmp_path, series)
    with pytest.raises(DataError, match="is one volume where its scan has several"):
        read(tmp_path, drawn(), frame=1)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_turned_axes_are_turned_back(tmp_path: Path, codes: str) -> None:
    image = nib.Nifti1Image(drawn(), AFFINE)
    turned = image.as_reoriented(ornt_transform(io_orientation(AFFINE), axcodes2ornt(codes)))
    found = read(tmp_path, np.asanyarray(turned.dataobj), turned.affine)
    assert found.lies(FIRST) in ("same", "turned")
    np.testing.assert_array_equal(found.on(FIRST).labels, drawn().T)


@pytest.mark.parametrize("by_voxel", [False, True])
def test_a_finer_grid_that_is_cropped_is_brought_there_by_its_header(tmp_path: Path, by_voxel: bool) -> None:
    fine = drawn().repeat(2, axis=0).repeat(2, axis=1)[4:, 4:]
    affine = AFFINE.astype(np.float64) @ np.diag([0.5, 0.5, 1, 1])
    affine[:3, 3] = (AFFINE @ [-0.25 + 2, -0.25 + 2, 0, 1])[:3]
    found = read(tmp_path, fine, affine, by_voxel=by_voxel)
    assert found.lies(FIRST) == "another"
    if by_voxel:
        with pytest.raises(DataError, match=r"has \(36, 44, 10\) voxels where the grid has \(20, 24, 10\)"):
            found.on(FIRST)
    else:
        np.testing.assert_array_equal(found.on(FIRST).labels, drawn().T)


def test_another_header_on_the_same_voxels(tmp_path: Path) -> None:
    """ACDC's lie voxel for voxel; all others lie where their header says."""
    shifted = AFFINE.astype(np.float64)
    shifted[:3, 3] = (AFFINE @ [2, 0, 0, 1])[:3]
    np.testing.assert_array_equal(read(tmp_path, drawn(), shifted, by_voxel=True).on(FIRST).labels, drawn().T)
    moved = read(tmp_path, drawn(), shifted).on(FIRST).labels
    np.testing.assert_array_equal(moved[:, :, 2:], drawn().T[:, :, :-2])
    assert not moved[:, :, :2].any(), "beyond its own grid there is no label"
    away = AFFINE.astype(np.float64)
    away[:3, 3] += 500
    with pytest.raises(DataError, match="its labels lie outside of the scan"):
        read(tmp_path, drawn(), away).on(FIRST)


def test_labels_follow_the_registration_of_their_scan(tmp_path: Path) -> None:
    """`moved` maps mm of the first visit to mm of the visit: here three voxels along its second axis."""
    moved = np.eye(4)
    moved[:3, 3] = AFFINE[:3, :3] @ [0, 3, 0]
    found = read(tmp_path, np.roll(drawn(), 3, axis=1)).on(FIRST, moved.ravel().tolist())
    np.testing.assert_array_equal(found.labels, drawn().T)


def test_sizes_that_were_reset_give_no_ml(tmp_path: Path) -> None:
    assert read(tmp_path, drawn(), np.eye(4)).voxel_ml is None
