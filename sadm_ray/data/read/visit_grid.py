"""Bring a visit onto the grid of the subject's first visit: by turning its axes, resampling, or registration.

Axes that are only stored in another order or direction (LPS beside RAS) are turned, which changes no voxel. Any other
grid is resampled, once, if the settings say so; a registration only changes where from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Shaped

from sadm_ray.data.read.scan_checks import Facts, Geometry, spacing_warning
from sadm_ray.errors import DataError

Register = Literal["none", "header", "rigid"]

TOLERANCE = 0.1
"""How far apart two grids may be at any corner, in voxels of the first, to be one."""
LEAST_COVERED = 0.5
"""The least share of the first visit's grid that another visit must cover."""


@dataclass(frozen=True, eq=False)
class Placement:
    """How a visit's voxels come onto the first visit's grid.

    `index_map` maps a voxel (x, y, z) of the first visit's grid to one of the visit's own. `exact`: it only turns axes.
    `moved` of one that is resampled maps mm of the first visit's space to those of the visit's own: what a registration
    found, else the identity.
    """

    index_map: Float64[np.ndarray, "4 4"]
    shape: tuple[int, int, int]
    exact: bool
    moved: Float64[np.ndarray, "4 4"] | None = None

    @classmethod
    def none(cls, shape: tuple[int, int, int]) -> Placement:
        """That of a visit that stays as it is."""
        return cls(np.eye(4), shape, exact=True)

    @cached_property
    def turns(self) -> bool:
        """Whether the same voxels are put into another order."""
        return self.exact and not np.array_equal(np.rint(self.index_map[:3, :3]), np.eye(3))

    def __call__(self, volume: Float32[np.ndarray, "D H W"]) -> Float32[np.ndarray, "d h w"]:
        """The visit's voxels on the first visit's grid; beyond the visit's own grid, its outermost ones."""
        if self.exact:
            return self._turned(volume)
        from scipy import ndimage  # seconds to import

        matrix, offset = self.index_map[:3, :3], self.index_map[:3, 3]
        sigma = np.maximum((np.abs(matrix).max(axis=1) - 1) / 2, 0)  # of a coarser grid, as in `resampling.resample`
        source = ndimage.gaussian_filter(volume.T, sigma, mode="nearest") if sigma.any() else volume.T
        moved = ndimage.affine_transform(source, matrix, offset, output_shape=self.shape, order=1, mode="nearest")
        return np.ascontiguousarray(moved.T)

    def labels(self, labels: Shaped[np.ndarray, "D H W"]) -> Shaped[np.ndarray, "d h w"]:
        """Labels brought the same way: a voxel takes that of the nearest one; beyond the own grid there is none (0)."""
        if self.exact:
            return self._turned(labels)
        from scipy import ndimage

        matrix, offset = self.index_map[:3, :3], self.index_map[:3, 3]
        return np.ascontiguousarray(ndimage.affine_transform(labels.T, matrix, offset, self.shape, order=0).T)

    def _turned(self, volume: Shaped[np.ndarray, "D H W"]) -> Shaped[np.ndarray, "d h w"]:
        if not self.turns:
            return volume
        turn = np.rint(self.index_map[:3, :3]).astype(int)
        axes = np.abs(turn).argmax(axis=0)
        backwards = tuple(axis for axis in range(3) if turn[axes[axis], axis] < 0)
        return np.ascontiguousarray(np.flip(volume.T.transpose(axes), backwards).T)


class FirstVisit:
    """The first good visit of a subject, onto whose grid the others come."""

    def __init__(self, register: Register) -> None:
        self._register: Register = register
        self._facts: Facts | None = None
        self._volume: Float32[np.ndarray, "d h w"] | None = None

    @property
    def facts(self) -> Facts:
        """Its file, grid and voxel sizes; there must have been one."""
        if self._facts is None:
            raise RuntimeError("no visit was read yet")
        return self._facts

    @property
    def known(self) -> bool:
        """Whether there was one."""
        return self._facts is not None

    def place(self, facts: Facts, frame: Callable[[int], Float32[np.ndarray, "D H W"]]) -> tuple[Placement, list[str]]:
        """How a visit comes onto the grid of the first, which the first call gives, and remarks.

        Args:
            frame: its volumes by index; the first is registered.

        Raises:
            DataError: it cannot be brought there.
        """
        if self._facts is None:
            self._facts = facts
            self._volume = frame(0) if self._register == "rigid" else None
            return Placement.none(facts.shape), spacing_warning(facts.spacing, facts.shape)
        if self._volume is None:
            return place(self._facts, facts, self._register), []
        from sadm_ray.data.read.rigid_registration import register_rigid

        moved = register_rigid(self._volume, self._facts.affine, frame(0), facts.affine)
        remarks = (
            [] if moved is not None else ["could not be registered to the first visit; it stays where its header says"]
        )
        return place(self._facts, facts, "rigid", moved), remarks

    def place_beside(self, facts: Facts, other: Placement) -> Placement:
        """How a further contrast of a visit comes there: as the visit's `other` one did, by its own header.

        Raises:
            DataError: it hardly covers the grid of the first visit.
        """
        moved = None if other.moved is None or np.array_equal(other.moved, np.eye(4)) else other.moved
        return place(self.facts, facts, "header", moved)


def place(
    first: Geometry, other: Geometry, register: Register, moved: Float64[np.ndarray, "4 4"] | None = None
) -> Placement:
    """How `other` comes onto the grid of `first`.

    Args:
        moved: what a rigid registration found, from mm of `first` to mm of `other`; none: both have one space.

    Raises:
        DataError: it lies on another grid and is not to be resampled, or hardly covers the first visit's.
    """
    if moved is None and other.shape == first.shape and np.array_equal(other.affine, first.affine):
        return Placement.none(first.shape)
    index_map = np.linalg.solve(other.affine, (np.eye(4) if moved is None else moved) @ first.affine)
    off = _turned_off(first, other, index_map)
    if moved is None and off is not None and off <= TOLERANCE * np.linalg.norm(first.affine[:3, :3], axis=0).min():
        return Placement(index_map, first.shape, exact=True)
    if register == "none":
        detail = f"shape {other.shape}, not {first.shape}" if off is None else f"up to {off:.3g} mm off"
        raise _fault(
            f"not on the grid of {first.file} ({detail}); set data.register=header to resample it, or rigid to register"
        )
    covered = _covered(index_map, first.shape, other.shape)
    if covered < LEAST_COVERED:
        raise _fault(f"covers only {covered:.0%} of the grid of {first.file}; export it with the same field of view")
    return Placement(index_map, first.shape, exact=False, moved=np.eye(4) if moved is None else moved)


def _fault(line: str) -> DataError:
    return DataError(line, [line])


def _turned_off(first: Geometry, other: Geometry, index_map: Float64[np.ndarray, "4 4"]) -> float | None:
    """How many mm the corners are apart once the axes of `other` are turned; none where its shape is another one."""
    turn = _nearest_turn(index_map[:3, :3])
    if turn is None:
        turn = np.eye(3)
    if tuple((np.abs(turn).T @ np.asarray(other.shape)).astype(int)) != first.shape:
        return None
    exact = np.eye(4)
    exact[:3, :3] = turn
    exact[:3, 3] = np.where(turn.sum(axis=1) < 0, np.asarray(other.shape) - 1, 0)
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in first.shape))])
    return float(np.linalg.norm(corners @ (other.affine @ exact - first.affine).T, axis=1).max())


def _nearest_turn(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"] | None:
    """The permutation of axes with signs that is nearest; none where two axes would become one."""
    turn = np.zeros((3, 3))
    for column, axis in enumerate(np.abs(matrix).argmax(axis=0)):
        turn[axis, column] = np.sign(matrix[axis, column])
    return turn if (np.abs(turn).sum(axis=1) == 1).all() else None


def _covered(index_map: Float64[np.ndarray, "4 4"], first: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """The share of the first grid that lies within the other, by points of a coarse lattice."""
    axes = [np.linspace(0, size - 1, min(size, 16)) for size in first]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    inside = index_map[:3, :3] @ points + index_map[:3, 3:]
    return float(((inside >= -0.5) & (inside <= np.asarray(other)[:, None] - 0.5)).all(axis=0).mean())
