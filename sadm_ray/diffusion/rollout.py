"""The autoregressive order: the next absent frame is generated from all observed and generated ones (paper, 2.4)."""

from __future__ import annotations

from collections.abc import Sequence


def rollout_order(observed: Sequence[float], targets: Sequence[float]) -> list[int]:
    """The order in which to generate `targets`: always the one nearest to a time that is known by then.

    Of equally near ones the earlier comes first, so that a future is generated forwards.

    Args:
        observed: times of the observed frames, at least one.
        targets: times of the frames to generate.

    Returns:
        indices into `targets`.
    """
    known, left, order = list(observed), sorted(range(len(targets)), key=lambda i: targets[i]), []
    while left:
        following = min(left, key=lambda i: min(abs(targets[i] - time) for time in known))
        left.remove(following)
        known.append(targets[following])
        order.append(following)
    return order
