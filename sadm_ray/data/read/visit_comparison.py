"""What a visit is beside the first one of its subject: how well it lies on it, and how bright it is.

Both are looked at on grids of blocks of voxels, which costs a small part of reading the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Complex, Float, Float32, Int64

from sadm_ray.data.normalise.foreground import foreground

_BLOCKS = 32
"""The most blocks along an axis."""
_LARGEST_MOVE = 0.25
"""How far a visit is moved at most to see whether it fits better, as a share of the field of view."""
_GAIN_OF_MOVE = 0.05
"""By how much the correlation must rise for a visit to count as misplaced."""
_LEAST_CORRELATION = 0.3
"""A fetal brain of 34 weeks still correlates 0.43 with that of 21 weeks."""

Volume = Float32[np.ndarray, "d h w"]


@dataclass(frozen=True)
class Fit:
    """How a visit lies on the first one.

    `correlation` of their voxels as they lie, `moved_correlation` after the translation by `move` mm that makes it
    largest.
    """

    correlation: float
    move: float
    moved_correlation: float

    @property
    def warnings(self) -> list[str]:
        """What looks wrong, with its mend."""
        if self.moved_correlation - self.correlation > _GAIN_OF_MOVE:
            return [
                f"lies about {self.move:.0f} mm beside the first visit (they correlate {self.correlation:.2f} as they "
                f"lie, {self.moved_correlation:.2f} if moved); register it, or set data.register=rigid"
            ]
        if self.moved_correlation < _LEAST_CORRELATION:
            return [
                f"correlates only {self.moved_correlation:.2f} with the first visit wherever it is moved; see whether "
                "it is of the same person and contrast, turned differently or cropped"
            ]
        return []


@dataclass(frozen=True)
class BesideFirst(Fit):
    """A visit beside the first one; `level` is the median of its foreground over the first visit's."""

    level: float


class VisitComparison:
    """Compares the visits of a subject, on one grid, with the first of them."""

    def __init__(self) -> None:
        self._first: _First | None = None

    def fit(self, volume: Volume, voxel: Sequence[float]) -> Fit | None:
        """How a visit lies on the first; None for the first volume itself.

        Args:
            voxel: its size along (d, h, w) in mm.
        """
        return self._fit(_blocks(volume), volume.shape, voxel)

    def beside_first(self, volume: Volume, voxel: Sequence[float]) -> BesideFirst | None:
        """The same, and how bright it is."""
        coarse = _blocks(volume)
        fit = self._fit(coarse, volume.shape, voxel)
        if fit is None or self._first is None:
            return None
        level = _brightness(coarse) / (self._first.brightness or 1.0)
        return BesideFirst(fit.correlation, fit.move, fit.moved_correlation, level)

    def _fit(self, coarse: Volume, shape: Sequence[int], voxel: Sequence[float]) -> Fit | None:
        if self._first is None:
            self._first = _First(coarse, np.asarray(voxel) * np.divide(shape, coarse.shape))
            return None
        correlation = moved = _correlation(self._first.blocks, coarse, (0, 0, 0))
        shift = np.zeros(3)
        if correlation < 1 - _GAIN_OF_MOVE:  # else no move can gain that much
            shift = _best_shift(self._first, coarse)
            if shift.any():
                moved = _correlation(self._first.blocks, coarse, tuple(int(step) for step in shift))
        return Fit(correlation, float(np.linalg.norm(shift * self._first.block_mm)), moved)


@dataclass(frozen=True, eq=False)
class _First:
    """The first visit; what every later one needs of it is computed once."""

    blocks: Volume
    block_mm: Float[np.ndarray, " axes"]

    @cached_property
    def spectrum(self) -> Complex[np.ndarray, "d h w"]:
        return _spectrum(self.blocks)

    @cached_property
    def brightness(self) -> float:
        return _brightness(self.blocks)


def _brightness(blocks: Volume) -> float:
    return float(np.median(blocks[foreground(blocks)]))


def _spectrum(blocks: Volume) -> Complex[np.ndarray, "d h w"]:
    from scipy import fft  # slow to import; NumPy's goes axis by axis, which takes twice as long

    return np.asarray(fft.rfftn(blocks - blocks.mean(), s=_shifts(blocks.shape)[0]))


@lru_cache(maxsize=16)
def _shifts(shape: tuple[int, ...]) -> tuple[list[int], list[Int64[np.ndarray, " n"]]]:
    """The size of a Fourier transform in which no shift of interest wraps around, and these shifts along each axis."""
    most = [math.floor(_LARGEST_MOVE * count) for count in shape]
    steps = [np.r_[0 : furthest + 1, -furthest:0] for furthest in most]
    return [_fast_size(count + furthest) for count, furthest in zip(shape, most, strict=True)], steps


def _fast_size(size: int) -> int:
    """The next one without prime factors above 5, which transforms are fast for."""
    while 30**16 % size:
        size += 1
    return size


def _blocks(volume: Volume) -> Volume:
    """Means of blocks of voxels, at most `_BLOCKS` along an axis; voxels that fill no block are left out."""
    for axis, size in enumerate(volume.shape):
        step = -(-size // _BLOCKS)
        if step == 1:
            continue
        cut = np.take(volume, range(size // step * step), axis) if size % step else volume
        shape = (*cut.shape[:axis], size // step, step, *cut.shape[axis + 1 :])
        volume = cut.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return volume


def _best_shift(first: _First, other: Volume) -> Int64[np.ndarray, " axes"]:
    """The translation of `other` in blocks that makes the sum of products largest, by the Fourier transform."""
    from scipy import fft

    size, steps = _shifts(other.shape)
    products = fft.irfftn(first.spectrum * _spectrum(other).conj(), s=size)[np.ix_(*steps)]
    place = np.unravel_index(int(products.argmax()), products.shape)
    return np.array([along[at] for along, at in zip(steps, place, strict=True)])


def _correlation(first: Volume, other: Volume, shift: tuple[int, ...]) -> float:
    """Pearson's, of the part that both share once `other` is moved by `shift` blocks; 0 without contrast."""
    parts = []
    for volume, sign in ((first, 1), (other, -1)):
        starts = [max(0, sign * step) for step in shift]
        stops = [size + min(0, sign * step) for size, step in zip(volume.shape, shift, strict=True)]
        part = volume[tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))].ravel()
        values = part.astype(np.float64)
        values -= values.mean()
        parts.append(values)
    norm = math.sqrt(float(parts[0] @ parts[0]) * float(parts[1] @ parts[1]))
    return float(parts[0] @ parts[1]) / norm if norm else 0.0
