"""From the scanner's grid and units to the model's, and back.

Space only: nothing here mixes frames, since interpolating in time would carry a target into its context. The field of
view is kept, so the voxel (i + ½) / n of one grid lies where (j + ½) / m of the other does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage


def to_grid(frames: Float[np.ndarray, "t D H W"], shape: Sequence[int]) -> Float32[np.ndarray, "t d h w"]:
    """Resample every frame to `shape` (d, h, w) over the same field of view, linearly along each axis.

    Along an axis that becomes coarser by a factor f, a Gaussian of σ = (f − 1) / 2 source voxels comes first, so that
    detail finer than the new grid does not come back as moiré (the rule of scikit-image's `resize`).
    """
    return np.stack([_resample(frame, shape) for frame in frames])


def from_grid(volume: Float[np.ndarray, "d h w"], source_shape: Sequence[int]) -> Float32[np.ndarray, "D H W"]:
    """Resample a volume of the model's grid back to its source's; what the coarser grid lost stays lost."""
    return _resample(volume, source_shape)


def normalise(
    frames: Float[np.ndarray, "t d h w"],
) -> tuple[Float32[np.ndarray, "t d h w"], tuple[float, float]]:
    """Map a subject's frames to [0, 1] by the minimum and maximum over the whole sequence, as in the SADM paper (§3).

    One range a subject, not a frame, keeps real changes of intensity. Since the range is that of all frames, a target
    is seen through these two numbers, and through nothing else.

    Returns:
        The frames and the range (lo, hi) in the units of the scanner, for `denormalise`.

    Raises:
        ValueError: all voxels are equal.
    """
    lo, hi = float(frames.min()), float(frames.max())
    if not hi > lo:
        raise ValueError(f"cannot normalise frames of the constant value {lo}")
    return ((frames - lo) / (hi - lo)).astype(np.float32, copy=False), (lo, hi)


def denormalise(frames: Float[np.ndarray, "*shape"], intensity: tuple[float, float]) -> Float32[np.ndarray, "*shape"]:
    """The inverse of `normalise`: [0, 1] back to the range (lo, hi)."""
    lo, hi = intensity
    return (frames.astype(np.float64) * (hi - lo) + lo).astype(np.float32)


def _resample(volume: Float[np.ndarray, "D H W"], shape: Sequence[int]) -> Float32[np.ndarray, "d h w"]:
    volume = volume.astype(np.float32, copy=False)
    factors = np.divide(volume.shape, shape)
    sigma = np.maximum((factors - 1) / 2, 0)
    if sigma.any():
        volume = ndimage.gaussian_filter(volume, sigma, mode="nearest")
    # grid_mode: the ends of the field of view stay put, rather than the centres of the outermost voxels.
    return ndimage.zoom(volume, 1 / factors, order=1, mode="nearest", grid_mode=True)
