"""What a visit is beside the first one of its subject: how well it lies on it, how bright it is, whether it is a copy.

Positions and brightness are looked at on grids of blocks of voxels, which costs a small part of reading the file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

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
class BesideFirst:
    """A visit beside the first one.

    `correlation` of their voxels as they lie, `moved_correlation` after the translation by `move` mm that makes it
    largest; `level` is the median of the foreground over the first visit's.
    """

    correlation: float
    move: float
    moved_correlation: float
    level: float

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


class VisitChecks:
    """Compares each volume of a subject with those before it; volumes are on the first one's grid."""

    def __init__(self) -> None:
        self._first: Volume | None = None
        self._block_mm = np.ones(3)
        self._files: dict[str, str] = {}

    def copy_of(self, digest: str, file: str) -> str | None:
        """The file that had the same voxels before, perhaps the same one; none: these are new."""
        before = self._files.get(digest)
        if digest and before is None:
            self._files[digest] = file
        return before

    def beside_first(self, volume: Volume, spacing: tuple[float, float, float]) -> BesideFirst | None:
        """None for the first volume itself.

        Args:
            spacing: of the first visit's grid, (x, y, z) in mm.
        """
        coarse = _blocks(volume)
        if self._first is None:
            self._first = coarse
            self._block_mm = np.asarray(spacing[::-1]) * np.divide(volume.shape, coarse.shape)
            return None
        shift = _best_shift(self._first, coarse)
        return BesideFirst(
            _correlation(self._first, coarse, (0, 0, 0)),
            float(np.linalg.norm(shift * self._block_mm)),
            _correlation(self._first, coarse, tuple(int(step) for step in shift)),
            float(np.median(coarse[foreground(coarse)]) / (np.median(self._first[foreground(self._first)]) or 1.0)),
        )


def voxel_digest(volume: Volume) -> str:
    """SHA-256 of the voxels, by which a scan is known again that was saved anew; empty without any contrast."""
    return "" if volume.min() == volume.max() else hashlib.sha256(volume.tobytes()).hexdigest()


def _blocks(volume: Volume) -> Volume:
    """Means of blocks of voxels, at most `_BLOCKS` along an axis; voxels that fill no block are left out."""
    steps = [-(-size // _BLOCKS) for size in volume.shape]
    counts = [size // step for size, step in zip(volume.shape, steps, strict=True)]
    cut = volume[tuple(slice(count * step) for count, step in zip(counts, steps, strict=True))]
    d, h, w = counts
    return cut.reshape(d, steps[0], h, steps[1], w, steps[2]).mean(axis=(1, 3, 5), dtype=np.float32)


def _best_shift(first: Volume, other: Volume) -> Float[np.ndarray, " axes"]:
    """The translation of `other` in blocks that makes the sum of products largest, by the Fourier transform."""
    size = [2 * count for count in first.shape]  # so that nothing wraps around
    spectra = [np.fft.rfftn(volume - volume.mean(), s=size, axes=(0, 1, 2)) for volume in (first, other)]
    products = np.fft.irfftn(spectra[0] * spectra[1].conj(), s=size, axes=(0, 1, 2))
    shifts = [np.fft.fftfreq(count, 1 / count) for count in size]
    for axis, (steps, count) in enumerate(zip(shifts, first.shape, strict=True)):
        too_far = np.abs(steps) > _LARGEST_MOVE * count
        products[(slice(None),) * axis + (too_far,)] = -np.inf
    place = np.unravel_index(int(products.argmax()), products.shape)
    return np.array([steps[at] for steps, at in zip(shifts, place, strict=True)])


def _correlation(first: Volume, other: Volume, shift: tuple[int, ...]) -> float:
    """Pearson's, of the part that both share once `other` is moved by `shift` blocks; 0 without contrast."""
    parts = []
    for volume, sign in ((first, 1), (other, -1)):
        starts = [max(0, sign * step) for step in shift]
        stops = [size + min(0, sign * step) for size, step in zip(volume.shape, shift, strict=True)]
        part = volume[tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))].ravel()
        parts.append(part.astype(np.float64) - part.mean(dtype=np.float64))
    norm = float(np.linalg.norm(parts[0]) * np.linalg.norm(parts[1]))
    return float(parts[0] @ parts[1]) / norm if norm else 0.0
