"""From a sequence of any length to a fixed number of slots.

A slot takes one source frame, the nearest in time, or stays empty. No frame ever fills two slots: the copy of a target
in its own context would give the answer away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64

ABSENT = -1
"""The source of a slot that no frame fills."""


def assign_slots(count: int, slots: int) -> Int64[np.ndarray, " slots"]:
    """The source frame (from 0) of every slot, or `ABSENT`.

    With at least as many frames as slots, slot i takes the frame nearest to phase i / (slots − 1); with fewer, frame k
    goes to the nearest slot of its phase k / (count − 1). Either way the frames are distinct and in order, the first
    slot holds end-diastole and the last end-systole.

    Raises:
        ValueError: fewer than two frames or slots.
    """
    if count < 2 or slots < 2:
        raise ValueError(f"a sequence needs two frames and two slots at least, not {count} and {slots}")
    if count >= slots:
        return _nearest(slots, count)
    sources = np.full(slots, ABSENT, dtype=np.int64)
    sources[_nearest(count, slots)] = np.arange(count)
    return sources


def slot_times(sources: Int64[np.ndarray, " slots"], times: Sequence[float]) -> Float32[np.ndarray, " slots"]:
    """When each slot was acquired: the true time of its frame; for empty ones the nominal phase i / (slots − 1)."""
    nominal = np.linspace(0, 1, len(sources))
    return np.where(sources == ABSENT, nominal, np.asarray(times)[sources]).astype(np.float32)


def _nearest(few: int, many: int) -> Int64[np.ndarray, " few"]:
    """Round i (many − 1) / (few − 1), halves up, in integers; a step of one or more keeps the results distinct."""
    i = np.arange(few, dtype=np.int64)
    return (2 * i * (many - 1) + few - 1) // (2 * (few - 1))
