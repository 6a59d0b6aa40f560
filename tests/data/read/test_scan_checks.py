from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sadm_ray.data.read.scan_checks import (
    affine_faults,
    cycle_faults,
    header_faults,
    spacing_warning,
    voxel_faults,
    voxel_range,
)

ACDC_SLAB = (100, 95, 7)


def affine(spacing: tuple[float, float, float] = (1.5, 1.5, 8.0), turn: float = 0.3) -> np.ndarray:
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag(spacing)
    matrix[:3, 3] = 10, -20, 30
    return matrix


def header(shape: tuple[int, ...] = (5, 4, 3), dtype: type = np.int16) -> nib.Nifti1Header:
    made = nib.Nifti1Header()
    made.set_data_dtype(dtype)
    made.set_data_shape(shape)
    made["vox_offset"] = 352
    return made


def test_a_sound_header_has_no_faults_and_every_byte_counts() -> None:
    frame = 4 * 60  # it is used as float32
    assert header_faults(header(), size=352 + 120, packed=False, limit=frame) == []
    assert "truncated" in header_faults(header(), size=352 + 119, packed=False, limit=frame)[0]
    assert "raise data.max_scan_gb" in header_faults(header(), size=352 + 120, packed=False, limit=frame - 1)[0]
    assert header_faults(header((100, 100, 10)), size=200, packed=True, limit=10**9) == []
    assert "truncated" in header_faults(header((100, 100, 11)), size=200, packed=True, limit=10**9)[0]


def test_what_is_not_credible_is_not_a_matter_of_the_limit() -> None:
    (line,) = header_faults(header((3000, 3000, 3000)), size=10**6, packed=True, limit=10**9)
    assert "copy it again" in line
    assert "max_scan_gb" not in line


def test_all_faults_of_a_header_are_reported() -> None:
    broken = header()
    broken["scl_slope"] = np.inf
    assert len(header_faults(broken, size=400, packed=False, limit=10**9)) == 2


def test_affines() -> None:
    assert affine_faults(affine()) == []
    assert affine_faults(np.diag([-0.05, 0.05, 0.2, 1])) == []
    sheared = affine()
    sheared[0, 2] += 6  # a tilted gantry
    assert affine_faults(sheared) == []
    assert "singular" in affine_faults(np.diag([1.0, 1, 0, 1]))[0]
    assert "NaN" in affine_faults(np.diag([1.0, np.nan, 1, 1]))[0]
    assert "2e+03 mm" in affine_faults(np.diag([1.0, 1, 2000, 1]))[0]
    assert "0.0001" in affine_faults(np.diag([1e-4, 1e-4, 1e-4, 1]))[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(np.nan, "1 of 60 voxels are NaN"), (-np.inf, "1 of 60 voxels are NaN or infinite"), (3e38, "range from")],
)
def test_voxels_that_are_no_numbers(value: float, expected: str) -> None:
    volume = np.linspace(-2e38, 1, 60, dtype=np.float32).reshape(3, 4, 5)
    assert voxel_faults(volume, *voxel_range(volume)) == []
    volume[1, 2, 3] = value
    (line,) = voxel_faults(volume, *voxel_range(volume))
    assert expected in line
    assert "; " in line


@pytest.mark.parametrize("value", [0, -3.5])
def test_volumes_without_contrast(value: float) -> None:
    volume = np.full((3, 4, 5), value, np.float32)
    assert f"every voxel is {value:g}" in voxel_faults(volume, *voxel_range(volume))[0]


def test_spacing_that_looks_reset() -> None:
    assert "reset to 1 mm (100 × 95 × 7 voxels)" in spacing_warning((1.0, 1.0, 1.0), ACDC_SLAB)[0]
    assert spacing_warning((1.0, 1.0, 1.0005), (256, 256, 40)), "less than a quarter"
    assert spacing_warning((1.5, 1.5, 10.0), ACDC_SLAB) == []
    assert spacing_warning((1.0, 1.0, 1.0), (182, 218, 182)) == [], "the brain of MNI"
    assert spacing_warning((1.0, 1.0, 1.0), (160, 256, 256)) == []
    assert spacing_warning((1.0, 1.0, 5.0), (256, 256, 24)) == []


def test_cycles() -> None:
    assert cycle_faults(1, 12, 30) == []
    assert cycle_faults(30, 1, 30) == []
    assert len(cycle_faults(0, 31, 30)) == 2
    assert "ES is frame 31, but the cine has frames 1 to 30; correct ES" in cycle_faults(1, 31, 30)[0]
    assert "both frame 4" in cycle_faults(4, 4, 30)[0]
    assert "holds a single volume" in cycle_faults(1, 12, 1)[0]


@pytest.mark.real_data
def test_the_warning_is_about_the_real_files_that_were_reset(real_data: Path) -> None:
    reset: list[Path] = []
    kept: list[Path] = []
    for path in (path for path in real_data.rglob("*.nii.gz") if not path.name.endswith("_gt.nii.gz")):
        image = nib.load(path)
        warned = spacing_warning([float(size) for size in image.header.get_zooms()[:3]], image.shape[:3])
        (reset if warned else kept).append(path)
    cines = list((real_data / "acdc").rglob("*_4d.nii.gz"))
    lost = {path for path in cines if nib.load(path).get_data_dtype() == np.float32}
    assert set(reset) == lost, "the float32 ones were converted, and lost their spacing"
    assert len(lost) == 27
    assert len(kept) > 60
