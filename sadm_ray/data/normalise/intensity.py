"""From the scanner's units to [0, 1] and back, and to the bytes of a shard and back.

A subject has one range of intensities, or each visit its own (`sadm_ray.data.normalise.visit_intensity`). The caller
chooses the frames that a range is measured on. The first alone leaks nothing of a target; over all frames, as in the
SADM paper (§3), a target leaks through these two numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from sadm_ray.data.normalise.foreground import foreground

Method = Literal["minmax", "percentile", "zscore", "whitestripe", "histogram"]
Within = Literal["volume", "foreground"]
Stored = Literal["float16", "uint8"]

_WHITE = 0.8
"""What the brightest tissue becomes."""
_BINS = 256


def intensity_range(
    frames: Float[np.ndarray, "*t d h w"], method: Method, within: Within = "volume"
) -> tuple[float, float]:
    """The intensities (lo, hi), in the units of the scanner, that become 0 and 1.

    Args:
        frames: one frame or several, measured as one; by default callers give the first alone.
        method: `minmax`, the lowest and highest intensity, as in the SADM paper (§3); `percentile`, the 0.5th and
            99.5th, which single hot voxels do not move; `zscore`, the mean −/+ 3 standard deviations, so that a
            z-score of z becomes (z + 3) / 6 and most of a scan stays within [0, 1]; `whitestripe`, the 0.5th percentile
            and what makes the brightest tissue, white matter in T1w, 0.8 (after Shinohara et al., NeuroImage: Clinical
            2014); `histogram`, as `percentile`.
        within: `foreground` measures the upper percentile, the mean and the deviation on the `foreground` alone, so
            that they do not depend on how much air is around. Air stays 0 of `percentile`.

    Raises:
        ValueError: the method finds no contrast in the frames, or a range that is not finite.
    """
    counted = frames[foreground(frames)] if within == "foreground" and method != "minmax" else frames
    if method == "minmax":
        lo, hi = float(frames.min()), float(frames.max())
    elif method == "zscore":
        mean, deviation = float(counted.mean(dtype=np.float64)), float(counted.std(dtype=np.float64))
        lo, hi = mean - 3 * deviation, mean + 3 * deviation
    elif method == "whitestripe":
        lo = float(np.percentile(frames, 0.5))
        hi = lo + (_brightest_mode(frames[foreground(frames)]) - lo) / _WHITE
    elif counted is frames:
        lo, hi = np.percentile(frames, (0.5, 99.5)).tolist()
    else:
        lo, hi = float(np.percentile(frames, 0.5)), float(np.percentile(counted, 99.5))
    _check((lo, hi))
    return lo, hi


def _brightest_mode(voxels: Float[np.ndarray, " n"]) -> float:
    """The intensity of the last peak of the histogram that is no ripple."""
    from scipy import ndimage, signal  # seconds to import

    counts, edges = np.histogram(voxels, _BINS, tuple(np.percentile(voxels, (0.5, 99.5))))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), _BINS / 64)
    peaks, _ = signal.find_peaks(np.pad(smooth, 1), height=smooth.max() / 5, prominence=smooth.max() / 20)
    last = int(peaks[-1]) - 1 if len(peaks) else int(smooth.argmax())
    return float(edges[last] + edges[last + 1]) / 2


def normalise(
    volume: Float[np.ndarray, "*shape"], intensity: tuple[float, float], *, clip: bool = False
) -> Float32[np.ndarray, "*shape"]:
    """Map the range (lo, hi) to [0, 1].

    Intensities beyond the range go beyond [0, 1], and `denormalise` brings them back; `clip` cuts them off for good.

    Raises:
        ValueError: the range is empty or not finite.
    """
    _check(intensity)
    lo, hi = intensity
    scaled = ((volume - lo) / (hi - lo)).astype(np.float32, copy=False)
    return scaled.clip(0, 1) if clip else scaled


def denormalise(volume: Float[np.ndarray, "*shape"], intensity: tuple[float, float]) -> Float32[np.ndarray, "*shape"]:
    """The inverse of `normalise`: [0, 1] back to the range (lo, hi)."""
    lo, hi = intensity
    return (volume.astype(np.float64) * (hi - lo) + lo).astype(np.float32)


def encode(frames: Float32[np.ndarray, "*shape"], dtype: Stored) -> tuple[bytes, tuple[float, float]]:
    """Frames as bytes, in C order and little-endian, and the range that `decode` needs.

    `float16` is a plain cast and its range is (0, 1). `uint8` takes 256 equal steps from the frames' own minimum to
    their maximum: nothing is clipped, and no voxel is off by more than half a step.

    Raises:
        ValueError: voxels are not finite, or too large for float16.
    """
    if dtype == "float16":
        with np.errstate(over="ignore"):
            halves = frames.astype("<f2")
        if not np.isfinite(halves).all():
            raise ValueError("voxels are not finite or beyond float16's ±65504; store them as uint8")
        return halves.tobytes(), (0.0, 1.0)
    lo, hi = float(frames.min()), float(frames.max())
    if not np.isfinite(hi - lo):
        raise ValueError(f"voxels from {lo} to {hi} are not finite")
    steps = (frames.astype(np.float64) - lo) * (255 / (hi - lo)) if hi > lo else np.zeros(frames.shape)
    return np.rint(steps).astype(np.uint8).tobytes(), (lo, hi)


def decode(
    data: bytes, dtype: Stored, stored: tuple[float, float], shape: Sequence[int]
) -> Float32[np.ndarray, "*shape"]:
    """The inverse of `encode`, to frames of `shape`, such as (t, d, h, w).

    Raises:
        ValueError: the bytes are not those of such frames.
    """
    if dtype == "float16":
        return np.frombuffer(data, dtype="<f2").reshape(shape).astype(np.float32)
    levels = np.linspace(*stored, 256).astype(np.float32)
    return levels[np.frombuffer(data, dtype=np.uint8).reshape(shape)]


def _check(intensity: tuple[float, float]) -> None:
    lo, hi = intensity
    # A range wider than float32 can hold turns voxels into infinity just as an infinite one does.
    if not abs(hi - lo) <= np.finfo(np.float32).max:
        raise ValueError(f"the intensities from {lo} to {hi} are not finite")
    # In the precision of voxels: the standard deviation of a constant can be a rounding error above 0.
    if not np.float32(hi) > np.float32(lo):
        raise ValueError(f"the intensities have no contrast: all that count are the constant value {lo}")
