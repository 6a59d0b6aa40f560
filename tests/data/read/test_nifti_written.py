"""Volumes that are written: their geometry, and that their bytes are the same at any time."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sadm_ray.data.read.nifti_io import nifti_bytes

SHEARED = np.array([[0, -1.5, 0.2, 10], [1.4, 0, 0.5, -20.5], [0.1, 0.3, 8, 3], [0, 0, 0, 1]])
SHEARED = SHEARED.astype(np.float32).astype(np.float64)

VOLUME = np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)


def oblique(shear: float = 0.0) -> np.ndarray:
    a, b = 0.4, 0.7
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]) @ np.array(
        [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.3, 1.3, 8.7])
    affine[0, 1] += shear
    affine[:3, 3] = 12.3, -45.6, 7.8
    return affine.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("affine", [oblique(), oblique(shear=0.3), SHEARED])
def test_a_saved_volume_lies_where_its_source_lies(tmp_path: Path, affine: np.ndarray) -> None:
    path = tmp_path / "volume.nii.gz"
    path.write_bytes(nifti_bytes(VOLUME, affine))
    image = nib.load(path)
    np.testing.assert_array_equal(image.affine, affine)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), VOLUME.T)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-5)
    assert nifti_bytes(VOLUME, affine) == path.read_bytes(), "equal voxels give equal bytes, at any time"


def test_rigid_affines_are_in_the_qform_too(tmp_path: Path) -> None:
    (tmp_path / "rigid.nii.gz").write_bytes(nifti_bytes(VOLUME, oblique()))
    header = nib.load(tmp_path / "rigid.nii.gz").header
    assert header["qform_code"] > 0
    np.testing.assert_allclose(header.get_qform(), oblique(), atol=1e-4)
    (tmp_path / "sheared.nii.gz").write_bytes(nifti_bytes(VOLUME, oblique(shear=0.3)))
    assert nib.load(tmp_path / "sheared.nii.gz").header["qform_code"] == 0


def test_an_affine_that_was_a_qform_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    source = nib.Nifti1Image(VOLUME.T, None)
    source.header.set_qform(oblique(), code=1)
    source.header.set_sform(None, code=0)
    nib.save(source, tmp_path / "source.nii")
    affine = nib.load(tmp_path / "source.nii").affine
    assert not np.array_equal(affine, affine.astype(np.float32)), "the case is about float64 affines"
    (tmp_path / "saved.nii.gz").write_bytes(nifti_bytes(VOLUME, affine))
    np.testing.assert_array_equal(nib.load(tmp_path / "saved.nii.gz").affine, affine)


def test_voxel_sizes_that_contradict_the_affine_are_kept(tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1, 1, 1])
    (tmp_path / "odd.nii.gz").write_bytes(nifti_bytes(VOLUME, affine, spacing=(1.5, 1.5, 10.0)))
    image = nib.load(tmp_path / "odd.nii.gz")
    np.testing.assert_array_equal(image.affine, affine)
    np.testing.assert_allclose(image.header.get_zooms(), (1.5, 1.5, 10))
