from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sadm_ray.data.catalog import find_subjects
from sadm_ray.data.volume import load_frames, save_volume
from tests.data.patients import AFFINE, write_cine, write_single_frames

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


@pytest.mark.parametrize("affine", [oblique(), oblique(shear=0.3), AFFINE.astype(np.float64)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_saved_volume_lies_where_its_source_lies(tmp_path: Path, affine: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"volume{suffix}"
    save_volume(path, VOLUME, affine)
    image = nib.load(path)
    np.testing.assert_array_equal(image.affine, affine)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), VOLUME.T)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "no temporary file is left"


def test_rigid_affines_are_in_the_qform_too(tmp_path: Path) -> None:
    save_volume(tmp_path / "rigid.nii", VOLUME, oblique())
    header = nib.load(tmp_path / "rigid.nii").header
    assert header["qform_code"] > 0
    np.testing.assert_allclose(header.get_qform(), oblique(), atol=1e-4)
    save_volume(tmp_path / "sheared.nii", VOLUME, oblique(shear=0.3))
    assert nib.load(tmp_path / "sheared.nii").header["qform_code"] == 0


def test_an_affine_that_was_a_qform_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    source = nib.Nifti1Image(VOLUME.T, None)
    source.header.set_qform(oblique(), code=1)
    source.header.set_sform(None, code=0)
    nib.save(source, tmp_path / "source.nii")
    affine = nib.load(tmp_path / "source.nii").affine
    assert not np.array_equal(affine, affine.astype(np.float32)), "the case is about float64 affines"
    save_volume(tmp_path / "saved.nii", VOLUME, affine)
    np.testing.assert_array_equal(nib.load(tmp_path / "saved.nii").affine, affine)


def test_voxel_sizes_that_contradict_the_affine_are_kept(tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1, 1, 1])
    save_volume(tmp_path / "odd.nii", VOLUME, affine, spacing=(1.5, 1.5, 10.0))
    image = nib.load(tmp_path / "odd.nii")
    np.testing.assert_array_equal(image.affine, affine)
    np.testing.assert_allclose(image.header.get_zooms(), (1.5, 1.5, 10))


def test_load_frames_is_the_transpose_of_frames_ed_to_es(tmp_path: Path) -> None:
    voxels = np.random.default_rng(1).integers(0, 900, (10, 9, 4, 8)).astype(np.int16)
    write_cine(tmp_path, "patient001", voxels, ed=3, es=7)
    frames = load_frames(find_subjects(tmp_path).subjects[0])
    assert frames.dtype == np.float32
    assert frames.shape == (5, 4, 9, 10)
    np.testing.assert_array_equal(frames[0], voxels[..., 2].T)
    np.testing.assert_array_equal(frames[-1], voxels[..., 6].T)


def test_scale_factors_are_applied(tmp_path: Path) -> None:
    path = write_cine(tmp_path, "patient001")
    image = nib.load(path)
    scaled = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    scaled.header.set_slope_inter(0.5, -100)
    nib.save(scaled, path)
    with np.errstate(all="raise"):
        frames = load_frames(find_subjects(tmp_path).subjects[0])
    np.testing.assert_allclose(frames[0], nib.load(path).get_fdata()[..., 0].T)


def test_frames_in_files_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    frames = {3: rng.random((6, 5, 4)), 12: rng.random((6, 5, 4))}
    write_single_frames(tmp_path, "patient002", frames, ed=3, es=12)
    loaded = load_frames(find_subjects(tmp_path).subjects[0])
    np.testing.assert_allclose(loaded, np.stack([frames[3].T, frames[12].T]), rtol=1e-6)
