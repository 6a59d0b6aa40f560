from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import gaussian_filter

from sadm_ray.data.read.visit_grid import FirstVisit, Placement, Register, place
from sadm_ray.errors import DataError

SHAPE = (24, 30, 16)  # x y z


@dataclass(frozen=True)
class Grid:
    file: str
    shape: tuple[int, int, int]
    affine: np.ndarray


@dataclass(frozen=True)
class Facts(Grid):
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


def oblique(turn: float = 0.3, spacing: tuple[float, float, float] = (1.5, 1.5, 3.0)) -> np.ndarray:
    cos, sin = np.cos(turn), np.sin(turn)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) * spacing
    affine[:3, 3] = -30, 12, 5
    return affine


FIRST = Grid("visits/first.nii.gz", SHAPE, oblique())


def scan(seed: int = 0) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).random(SHAPE, np.float32), 2) * 100


def refused(other: Grid, register: Register = "none") -> str:
    with pytest.raises(DataError) as caught:
        place(FIRST, other, register)
    (line,) = caught.value.problems
    return line


@pytest.mark.parametrize("register", ["none", "header"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SAL", "ILA", "ASR"])
def test_axes_in_another_order_or_direction_are_the_same_grid(codes: str, register: Register) -> None:
    image = nib.Nifti1Image(scan(), FIRST.affine)
    turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes)))
    placed = place(FIRST, Grid("turned", turned.shape, turned.affine), register)
    assert placed.exact
    volume = np.ascontiguousarray(turned.get_fdata(dtype=np.float32).T)
    np.testing.assert_array_equal(placed(volume), scan().T)


def test_rounding_is_no_other_grid() -> None:
    assert place(FIRST, Grid("rounded", SHAPE, FIRST.affine + 1e-4), "none").exact


def test_other_grids_are_refused_with_both_mends() -> None:
    line = refused(Grid("smaller", (24, 30, 15), FIRST.affine))
    assert "not on the grid of visits/first.nii.gz (shape (24, 30, 15), not (24, 30, 16))" in line
    assert "data.register=header" in line
    assert "rigid" in line
    assert "mm off" in refused(Grid("turned", SHAPE, oblique(0.31)))
    moved = oblique()
    moved[2, 3] += 0.2
    assert "0.2 mm off" in refused(Grid("moved", SHAPE, moved))


def test_another_grid_of_the_same_space_is_resampled() -> None:
    fine = Grid("fine", (48, 60, 48), oblique(spacing=(0.75, 0.75, 1.0)))
    fine.affine[:3, 3] += fine.affine[:3, :3] @ (-0.5, -0.5, -1.0) + (FIRST.affine - oblique())[:3, 3]
    world = np.stack(np.meshgrid(*map(np.arange, fine.shape), indexing="ij"), axis=-1) @ fine.affine[:3, :3].T
    volume = (world + fine.affine[:3, 3])[..., 0].astype(np.float32)  # its own x in mm
    placed = place(FIRST, fine, "header")
    assert not placed.exact
    truth = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1) @ FIRST.affine[:3, :3].T
    inner = (slice(2, -2),) * 3
    result = placed(np.ascontiguousarray(volume.T)).T
    np.testing.assert_allclose(result[inner], (truth + FIRST.affine[:3, 3])[inner][..., 0], atol=1e-3)


def test_a_visit_that_hardly_covers_the_first_is_refused() -> None:
    away = oblique()
    away[:3, 3] += 40
    assert "covers only" in refused(Grid("away", SHAPE, away), "header")


def test_a_registration_moves_the_visit_and_is_kept() -> None:
    moved = np.eye(4)
    moved[:3, 3] = FIRST.affine[:3, :3] @ (2, -3, 1)
    placed = place(FIRST, FIRST, "rigid", moved)
    np.testing.assert_allclose(
        placed(np.roll(scan(), (2, -3, 1), (0, 1, 2)).T)[1:-2, 4:-4, 3:-3], scan().T[1:-2, 4:-4, 3:-3], atol=1e-3
    )
    np.testing.assert_array_equal(placed.moved, moved)


def test_a_further_contrast_of_a_visit_goes_where_the_visit_went() -> None:
    """Also where the visit was registered, and where the contrast has voxels of its own."""
    first, visit = FirstVisit("header"), Facts("first", (12, 10, 8), np.eye(4))
    first.place(visit, lambda _: np.zeros((8, 10, 12), np.float32))
    moved = np.eye(4)
    moved[:3, 3] = 2, 0, 1
    registered = place(visit, Facts("later", (12, 10, 8), np.eye(4)), "rigid", moved)
    fine = np.diag([0.5, 0.5, 0.5, 1.0])
    beside = first.place_beside(Facts("later FLAIR", (24, 20, 16), fine), registered)
    voxel = np.array([3.0, 4.0, 5.0, 1.0])
    np.testing.assert_allclose(fine @ beside.index_map @ voxel, registered.index_map @ voxel)
    same = first.place_beside(Facts("FLAIR", (12, 10, 8), np.eye(4)), Placement.none((12, 10, 8)))
    assert same.exact
    still = place(visit, Facts("coarse", (6, 5, 4), np.diag([2.0, 2.0, 2.0, 1.0])), "header")
    assert first.place_beside(Facts("FLAIR", (12, 10, 8), np.eye(4)), still).exact
