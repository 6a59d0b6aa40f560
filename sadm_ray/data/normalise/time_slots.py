"""From a sequence of any length to a fixed number of slots, evenly spaced from its first time to its last.

A slot takes one source frame, near it in time, or stays empty. No frame ever fills two slots: a copy of the target in
its own context would leak the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64

ABSENT = -1
"""The source of a slot that no frame fills."""

Times = Sequence[float] | Float[np.ndarray, " t"]


def assign_slots(times: Times, slots: int) -> Int64[np.ndarray, " slots"]:
    """The source frame (from 0) of every slot, or `ABSENT`.

    With at least as many frames as slots every slot takes a frame, with fewer every frame finds a slot. The first frame
    is in the first slot, the last in the last, and those between lie nearest to their slots overall: the sum of squared
    distances in time is the least possible. Frames are distinct and in order.

    Args:
        times: when each frame was acquired, strictly increasing, in any unit.
        slots: how many there are; slot i's nominal time is i / (slots − 1) of the way from the first time to the last.

    Raises:
        ValueError: fewer than two frames or slots, or times that do not increase.
    """
    count = len(times)
    if count < 2 or slots < 2:
        raise ValueError(f"a sequence needs two frames and two slots at least, not {count} and {slots}")
    acquired = np.asarray(times, dtype=np.float64)
    if not np.isfinite(acquired).all() or not (np.diff(acquired) > 0).all():
        raise ValueError(f"the times of a sequence must increase from frame to frame, not {acquired.tolist()}")
    sources = np.full(slots, ABSENT, dtype=np.int64)
    sources[[0, -1]] = 0, count - 1
    distance = _nominal(acquired, slots)[1:-1, None] - acquired[None, 1:-1]
    from scipy.optimize import linear_sum_assignment  # seconds to import, for preparation alone

    taken, frames = linear_sum_assignment(distance**2)
    # A cost that is strictly convex never crosses two frames; the order is sorted for those a rounding error apart.
    sources[1 + taken] = 1 + np.sort(frames)
    return sources


def slot_times(sources: Int64[np.ndarray, " slots"], times: Times) -> Float64[np.ndarray, " slots"]:
    """When each slot was acquired, in the unit of `times`: the true time of its frame, the nominal one if absent."""
    acquired = np.asarray(times, dtype=np.float64)
    return np.where(sources == ABSENT, _nominal(acquired, len(sources)), acquired[sources])


def _nominal(times: Float[np.ndarray, " t"], slots: int) -> Float[np.ndarray, " slots"]:
    return np.linspace(times[0], times[-1], slots)
