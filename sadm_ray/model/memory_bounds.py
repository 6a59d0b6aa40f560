"""How much goes through the networks at a time in sampling, so that large volumes take little memory.

Results do not depend on these bounds but for rounding. Training, which keeps all activations anyway, has no such bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

VOXELS_AT_ONCE = 1 << 22
"""Samples, and scans to be encoded, go through the networks together as long as they have no more voxels than this: one
volume of 64 × 256 × 256, 8 of 32 × 128 × 128, or 128 of 8 × 64 × 64. Larger volumes go one by one."""
VALUES_AT_ONCE = 1 << 22
"""What sees only a neighbourhood takes so many numbers of a sample at a time; at least those of one slice."""


def samples_at_once(volume: Sequence[int]) -> int:
    """How many samples of this size (c d h w) go through the networks together; at least one."""
    return max(VOXELS_AT_ONCE // math.prod(volume), 1)


def by_slabs(function: Callable[..., Tensor], *volumes: Tensor, reach: int = 0) -> Tensor:
    """`function` of volumes (… d h w), whose result at a site depends on the volumes near this site alone.

    Without gradients it sees slabs along d, one after another, so that what it needs besides is small.

    Args:
        reach: how many sites to each side the result depends on. Beyond an end of the volume the function takes what it
            always does; beyond an end of a slab there are so many sites more, whose results are dropped.
    """
    d, values = volumes[0].shape[-3], sum(each.shape[1:].numel() for each in volumes)
    thick = max(VALUES_AT_ONCE * d // values, 1, 4 * reach)  # less, and most of the work would be dropped
    if thick >= d or torch.is_grad_enabled():
        return function(*volumes)
    results = []
    for start in range(0, d, thick):
        first, length = max(start - reach, 0), min(thick, d - start)
        last = min(start + length + reach, d)
        result = function(*(each.narrow(-3, first, last - first) for each in volumes))
        results.append(result.narrow(-3, start - first, length))
    return torch.cat(results, dim=-3)
