"""The autoregressive order: the next absent frame is generated from all observed and generated ones (paper, 2.4)."""

from __future__ import annotations

from collections.abc import Sequence


def rollout_order(observed: Sequence[float], targets: Sequence[float]) -> list[int]:
    """The order in which to generate `targets`: gaps are halved, and from the outermost scans it goes on outwards.

    Between scans the next is the target farthest from all frames known by then: the last of n frames then depends on a
    chain of log n generated ones, not of n, so that errors add up less. Beyond them it is always the nearest. Of
    equally good ones the earlier comes first, so that a future is generated forwards.

    Args:
        observed: times of the observed frames, at least one.
        targets: times of the frames to generate.

    Returns:
        indices into `targets`.
    """
    known, order = list(observed), []
    left = sorted(range(len(targets)), key=lambda i: targets[i])
    first, last = min(observed), max(observed)

    def apart(i: int) -> float:
        return min(abs(targets[i] - time) for time in known)

    while left:
        between = [i for i in left if first < targets[i] < last]
        following = max(between, key=apart) if between else min(left, key=apart)
        left.remove(following)
        known.append(targets[following])
        order.append(following)
    return order
