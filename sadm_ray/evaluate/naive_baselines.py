"""Naive baselines: predictions that need no model, which every model has to be compared with.

Neighbouring frames are nearly alike, so copying the last observed one already scores well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray


def within_observed_range(
    volume: Float[np.ndarray, "d h w"], frames: Float[np.ndarray, "t d h w"], observed: Sequence[int]
) -> Float[np.ndarray, "d h w"]:
    """The volume within [0, 1], or the range of the observed frames where that goes beyond, as a model's frames are."""
    seen = frames[list(observed)]
    return np.clip(volume, min(0.0, float(seen.min())), max(1.0, float(seen.max())))


def last_observed(observed: Sequence[int], times: Float[np.ndarray, " t"], target: int) -> int:
    """The slot that copy-last copies: the last observed one before the target, else the nearest in time.

    Args:
        observed: slots that were really observed, in any order.
        times: when each slot was acquired, in the study's unit; need not be regular.
        target: the slot that is predicted.

    Raises:
        ValueError: nothing is observed, or the target itself is.
    """
    before, after = _split(observed, times, target)
    return before[-1] if before else after[0]


def copy_last(
    frames: Float[np.ndarray, "t d h w"], observed: Sequence[int], times: Float[np.ndarray, " t"], target: int
) -> Float[np.ndarray, "d h w"]:
    """The last observed frame before the target (none before: the nearest observed one), as it is.

    Raises:
        ValueError: nothing is observed, or the target itself is.
    """
    return frames[last_observed(observed, times, target)]


def copy_first(
    frames: Float[np.ndarray, "t d h w"], observed: Sequence[int], times: Float[np.ndarray, " t"], target: int
) -> NDArray | None:
    """The first observed frame as it is; None where that is what copy-last copies.

    Raises:
        ValueError: nothing is observed, or the target itself is.
    """
    before, after = _split(observed, times, target)
    first = [*before, *after][0]
    return None if first == last_observed(observed, times, target) else frames[first]


def extrapolation(
    frames: Float[np.ndarray, "t d h w"], observed: Sequence[int], times: Float[np.ndarray, " t"], target: int
) -> NDArray | None:
    """Linear in time through the last two observed frames before the target, float32, `within_observed_range`.

    None where there are not two, or where they were taken at once.

    Raises:
        ValueError: nothing is observed, or the target itself is.
    """
    before, _ = _split(observed, times, target)
    if len(before) < 2 or times[before[-2]] == times[before[-1]]:
        return None
    first, last = before[-2:]
    weight = np.float32((times[target] - times[first]) / (times[last] - times[first]))
    along = (1 - weight) * frames[first].astype(np.float32) + weight * frames[last].astype(np.float32)
    return within_observed_range(along, frames, observed)


def interpolation(
    frames: Float[np.ndarray, "t d h w"], observed: Sequence[int], times: Float[np.ndarray, " t"], target: int
) -> NDArray | None:
    """Linear in time between the observed frames on both sides of the target, float32; None where a side has none.

    Raises:
        ValueError: nothing is observed, or the target itself is.
    """
    before, after = _split(observed, times, target)
    if not before or not after:
        return None
    left, right = before[-1], after[0]
    weight = np.float32((times[target] - times[left]) / (times[right] - times[left]))
    return (1 - weight) * frames[left].astype(np.float32) + weight * frames[right].astype(np.float32)


def _split(observed: Sequence[int], times: NDArray, target: int) -> tuple[list[int], list[int]]:
    """Observed slots not later than the target, and those later, each in the order of time."""
    if not len(observed):
        raise ValueError("nothing is observed")
    if target in observed:
        raise ValueError(f"frame {target} is observed: there is nothing to predict")
    slots = sorted((int(slot) for slot in observed), key=lambda slot: times[slot])
    return (
        [slot for slot in slots if times[slot] <= times[target]],
        [slot for slot in slots if times[slot] > times[target]],
    )
