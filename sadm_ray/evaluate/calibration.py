"""Several samples of one frame as an ensemble: how good their distribution is, and whether their spread is right.

Everything is taken over a region's voxels: the truth as `n` values, the samples as `s n`, intensities in [0, 1].
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""The nominal probabilities of the prediction intervals."""

COVERAGES = tuple(f"coverage_{level * 100:.0f}" for level in LEVELS)


def fair_crps(truth: Float[np.ndarray, " n"], samples: Float[np.ndarray, "s n"]) -> float:
    """The mean over voxels of the fair continuous ranked probability score; NaN without voxels.

    E|X − y| − E|X − X'| / 2, the second expectation over pairs of different samples: so its own expectation is that of
    the distribution the samples come from, however few they are (Ferro, Fair scores for ensemble forecasts, Quarterly
    Journal of the Royal Meteorological Society 2014). One sample alone gets its mean absolute error.
    """
    if not truth.size:
        return math.nan
    draws, count = np.sort(samples.astype(np.float64), axis=0), len(samples)
    error = np.abs(draws - truth).mean()
    if count == 1:
        return float(error)
    # Of sorted values the k-th (from 1) is the larger one in k − 1 pairs and the smaller one in S − k.
    weights = 2.0 * np.arange(1, count + 1) - count - 1
    return float(error - (weights @ draws).mean() / (count * (count - 1)))


def calibration(truth: Float[np.ndarray, " n"], samples: Float[np.ndarray, "s n"]) -> dict[str, float]:
    """How well the spread of two samples or more matches their error; NaN without voxels.

    Returns:
        `spread`: the root of `ensemble_variance_and_error`'s variance; `error`: of its error; `correlation`: Spearman's
        between the samples' standard deviation and the absolute error of their mean (NaN where one is constant);
        `COVERAGES`: the part of the voxels inside the interval of each of `LEVELS`, see `coverage`.
    """
    variance, squared = ensemble_variance_and_error(truth, samples)
    return {
        "spread": math.sqrt(variance),
        "error": math.sqrt(squared),
        "correlation": _spread_follows_error(truth, samples),
        **dict(zip(COVERAGES, coverage(truth, samples).tolist(), strict=True)),
    }


def coverage(truth: Float[np.ndarray, " n"], samples: Float[np.ndarray, "s n"]) -> Float[np.ndarray, " levels"]:
    """The part of the voxels whose truth lies inside the central prediction interval of each of `LEVELS`.

    The interval is mean ± t s √(1 + 1/S), with t of Student's distribution with S − 1 degrees of freedom: for a truth
    and S ≥ 2 samples from one normal distribution it holds the truth with just the nominal probability.
    """
    if not truth.size:
        return np.full(len(LEVELS), math.nan)
    draws, count = samples.astype(np.float64), len(samples)
    distance = np.abs(draws.mean(axis=0) - truth)
    scale = draws.std(axis=0, ddof=1) * math.sqrt(1.0 + 1.0 / count)
    widths = stdtrit(count - 1, 0.5 + 0.5 * np.asarray(LEVELS))
    return np.array([(distance <= width * scale).mean() for width in widths])


def ensemble_variance_and_error(
    truth: Float[np.ndarray, " n"], samples: Float[np.ndarray, "s n"]
) -> tuple[float, float]:
    """(1 + 1/S) times the mean variance of S samples, and the mean squared error of their mean.

    Where the truth is one more draw from the samples' distribution, the two have equal expectations (Fortin et al., Why
    should ensemble spread match the RMSE of the ensemble mean?, J. Hydrometeorology 2014). NaN without voxels.
    """
    if not truth.size:
        return math.nan, math.nan
    draws, truth = samples.astype(np.float64), truth.astype(np.float64)
    variance = (1.0 + 1.0 / len(draws)) * draws.var(axis=0, ddof=1).mean()
    return float(variance), float(np.square(draws.mean(axis=0) - truth).mean())


def _spread_follows_error(truth: Float[np.ndarray, " n"], samples: Float[np.ndarray, "s n"]) -> float:
    draws = samples.astype(np.float64)
    spread, error = draws.std(axis=0), np.abs(draws.mean(axis=0) - truth)
    if truth.size < 2 or not np.ptp(spread) or not np.ptp(error):
        return math.nan
    from scipy.stats import rankdata  # seconds to import

    return float(np.corrcoef(rankdata(spread), rankdata(error))[0, 1])
