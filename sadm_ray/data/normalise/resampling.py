"""Resample a volume over its field of view, and how the voxels of two grids along one axis lie to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32


def resample(volume: Float[np.ndarray, "D H W"], shape: Sequence[int]) -> Float32[np.ndarray, "d h w"]:
    """Resample to `shape` over the same field of view, linearly along each axis.

    The voxel (i + ½) / n of one grid lies where (j + ½) / m of the other does. Along an axis that becomes coarser by a
    factor f, a Gaussian of σ = (f − 1) / 2 source voxels comes first, so that detail finer than the new grid does not
    come back as moiré (the rule of scikit-image's `resize`).
    """
    volume = volume.astype(np.float32, copy=False)
    if volume.shape == tuple(shape):
        return volume
    from scipy import ndimage  # seconds to import, for preparation and generation, not for training

    factors = np.divide(volume.shape, shape)
    sigma = np.maximum((factors - 1) / 2, 0)
    if sigma.any():
        volume = ndimage.gaussian_filter(volume, sigma, mode="nearest")
    # grid_mode: the ends of the field of view stay put, rather than the centres of the outermost voxels.
    return ndimage.zoom(volume, 1 / factors, order=1, mode="nearest", grid_mode=True)


def overlap(size: int, other: int) -> slice:
    """The voxels of an axis of `size` that one of `other` voxels about the same centre shares."""
    start = max(0, (size - other) // 2)
    return slice(start, start + min(size, other))


def first_centre(edge: int, size: int, other: int) -> int:
    """The first of `size` voxels whose centre lies at or beyond `edge`, counted in `other` voxels of the same extent.

    That is ⌈edge · size / other − ½⌉, in integers.
    """
    return -((other - 2 * edge * size) // (2 * other))
