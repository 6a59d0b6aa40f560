"""Draw training examples from sequences: which frame is the target and which others are observed.

Plain PyTorch on whole batches; only masks and indices are drawn, frames are not copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sadm_ray.data.load.rng import SampleRng


@dataclass(frozen=True)
class TargetDraw:
    """The target frame and the observed frames of each sequence of a batch."""

    observed: Bool[Tensor, "b t"]
    target: Int[Tensor, " b"]


def draw_target(
    present: Bool[Tensor, "b t"], rng: SampleRng, imputation: float = 0.0, single: float = 0.0
) -> TargetDraw:
    """Draw a target among the present frames after the first, and which frames are observed (paper, section 2.3).

    The first present frame is always observed. How many of the others are is uniform: each sequence draws a
    probability and each of its frames is observed with it, so that one frame alone and all of them are both common.

    Args:
        present: which slots hold a frame, at least two a sequence. Absent ones at the end change nothing.
        rng: of these samples, on their device.
        imputation: probability that frames later than the target may be observed too.
        single: probability that the first frame alone is observed, or, where later ones may be, the first and the last;
            in addition to the draws in which that happens anyway.
    """
    slots = present.shape[1]
    index = torch.arange(slots, device=present.device)
    first = present.int().argmax(dim=1)

    eligible = present & (index > first[:, None])
    target = torch.where(eligible, rng.uniform("target", slots), -1.0).argmax(dim=1)
    chosen = present & (rng.uniform("observed", slots) < rng.uniform("how many", 1))
    earlier, later = index < target[:, None], index > target[:, None]
    on_both_sides = rng.uniform("later", 1) < imputation
    sparse = rng.uniform("single", 1) < single
    last = torch.where(present, index, -1).amax(dim=1)
    outermost = (index == first[:, None]) | (sparse & on_both_sides & later & (index == last[:, None]))
    allowed = ~sparse & (earlier | (later & on_both_sides))
    return TargetDraw(observed=(chosen & allowed) | outermost, target=target)


def take(frames: Tensor, index: Int[Tensor, " b"]) -> Tensor:
    """Frame `index` of each sequence: b t … → b …."""
    return frames[torch.arange(len(index), device=frames.device), index]


def nearest_present(frame: int, present: list[bool]) -> int:
    """The present slot nearest to slot `frame` (negative: from the end); of two equally near, the earlier."""
    slots = [slot for slot, filled in enumerate(present) if filled]
    wanted = frame % len(present)
    return min(slots, key=lambda slot: (abs(slot - wanted), slot))
