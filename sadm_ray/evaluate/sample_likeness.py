"""Whether samples are like scans: how far what differs between them is alike, and how much detail one of them has.

Samples that differ voxel by voxel have the right spread and yet are no scans: what is uncertain in an organ is how the
whole of it moves. Along the rows and columns of slices, whose voxels are alike.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

Volume = Float[np.ndarray, "d h w"]

LAGS = (1, 2, 4)
"""Voxels between the two places of an autocorrelation."""
BANDS = 4
"""So many bands of equal width up to half a cycle a voxel."""
COHERENCE = tuple(f"coherence_{lag}" for lag in LAGS)
ERROR_COHERENCE = tuple(f"error_coherence_{lag}" for lag in LAGS)
POWER = tuple(f"power_{band}" for band in range(1, BANDS + 1))
LIKENESS = (*COHERENCE, *ERROR_COHERENCE, *POWER)


def likeness(truth: Volume, estimate: Volume, samples: Float[np.ndarray, "s d h w"]) -> dict[str, float]:
    """Scores of the samples of one frame.

    Returns:
        `COHERENCE`: the autocorrelation of sample − estimate at each of `LAGS`, the mean over the samples;
        `ERROR_COHERENCE`: that of truth − estimate, which it should be; `POWER`: the power of the first sample over the
        truth's in each band, in dB, 0 is ideal. NaN where nothing differs, or where a slice is too small.
    """
    apart = [sample - estimate for sample in samples]
    found = {}
    for ours, ideal, lag in zip(COHERENCE, ERROR_COHERENCE, LAGS, strict=True):
        found[ours] = _mean([autocorrelation(each, lag) for each in apart])
        found[ideal] = autocorrelation(truth - estimate, lag)
    ratio = _decibel(band_power(samples[0]), band_power(truth))
    return found | dict(zip(POWER, ratio, strict=True))


def autocorrelation(volume: Volume, lag: int) -> float:
    """Of voxels so far apart along rows and columns, the mean of each slice taken off; NaN where it is constant."""
    if min(volume.shape[1:]) <= lag:
        return math.nan
    values = volume.astype(np.float64)
    values -= values.mean(axis=(1, 2), keepdims=True)
    variance = np.square(values).mean()
    along = (values[..., lag:] * values[..., :-lag]).mean() + (values[:, lag:] * values[:, :-lag]).mean()
    return float(0.5 * along / variance) if variance > 0 else math.nan


def band_power(volume: Volume) -> Float[np.ndarray, " bands"]:
    """The summed power of all slices in each band of spatial frequency within them; the mean belongs to none."""
    power = np.square(np.abs(np.fft.fft2(volume.astype(np.float64), axes=(1, 2)))).sum(axis=0)
    rows, columns = (np.fft.fftfreq(size) for size in volume.shape[1:])
    frequency = np.hypot(rows[:, None], columns[None])
    band = np.ceil(frequency * 2 * BANDS).astype(int)  # 0 is the mean, the corners beyond half a cycle are in none
    return np.array([power[band == number].sum() for number in range(1, BANDS + 1)])


def _decibel(one: Float[np.ndarray, " bands"], other: Float[np.ndarray, " bands"]) -> list[float]:
    return [10.0 * math.log10(a / b) if a > 0 and b > 0 else math.nan for a, b in zip(one, other, strict=True)]


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
