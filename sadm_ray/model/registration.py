"""Registration of the two reference frames: their displacement field is computed, it need not be learned.

Symmetric demons (Thirion, Image matching as a diffusion process, 1998; Vercauteren et al., Symmetric Log-Domain
Diffeomorphic Registration, 2008), from coarse to fine, batched on the device of the frames. Both frames move half of
the way, so the order of the two only turns the sign. Frames are compared by their intensities, and by these normalised
in a neighbourhood, where a faint edge counts as much as a strong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.model.displacement_field import warp
from sadm_ray.model.finite_differences import axes_within_slices, central_difference, local_mean, neighbours
from sadm_ray.model.time_warp import TimeWarp

ITERATIONS = {4: 12, 2: 12, 1: 6}
"""By how much frames are shrunk, and the steps then: at their full size a step costs four to eight times as much."""
SMALLEST = 8
"""No axis is shrunk below this."""
RADIUS, FLAT, LOCAL = 2, 0.02, 0.25
"""A neighbourhood reaches so many voxels to each side; a deviation of intensity in it that is noise; and what one
deviation counts as, in units of intensity."""
NOISE = 0.1
"""A difference of intensity that is noise."""


def aligned(references: ReferenceFrames, target_time: Float[Tensor, " b"], time_warp: TimeWarp) -> ReferenceFrames:
    """The two frames, each warped along the displacement field between them to the target's time; and that field.

    Between the frames `time_warp` maps time to a share of the way, for the weights too. Beyond them both are moved to
    the nearest frame: the prior network predicts how the motion goes on.

    Of several channels those count that both frames have themselves. One that is filled is not moved: it was acquired
    at another time.
    """
    between = references.time_from_target[:, 1] - references.time_from_target[:, 0]
    is_pair = between != 0  # a frame that is alone stands in both places
    between = torch.where(is_pair, between, 1.0)
    start = target_time + references.time_from_target[:, 0]
    share = (time_warp(start, target_time) / time_warp(start, start + between)).clamp(0.0, 1.0)
    passed, between = (each[:, None, None, None, None] for each in (share, between))
    first, second = references.frames[:, 0], references.frames[:, 1]
    has_channel = references.has_channel
    both = 1.0 if has_channel is None else has_channel.all(dim=1)[..., None, None, None]
    field = is_pair[:, None, None, None, None] * register(first * both, second * both)
    moved = torch.stack([warp(first, passed * field), warp(second, (passed - 1.0) * field)], dim=1)
    if has_channel is not None:
        moved = torch.where(has_channel[..., None, None, None], moved, references.frames)
    return replace(
        references, frames=moved, weights=torch.stack([1.0 - share, share], dim=1), displacement=field / between
    )


@torch.no_grad()
def register(first: Float[Tensor, "b c d h w"], second: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b 3 d h w"]:
    """The field u, in voxels along d h w, for which first(x + u/2) is like second(x − u/2).

    At a share s of the way from the first to the second, the frames are first(x + s u) and second(x − (1 − s) u).
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = first.float(), second.float()
        size = first.shape[-3:]
        axes = axes_within_slices(size)  # nothing is followed from one thick slice to the next
        field = first.new_zeros(len(first), 3, *(1 for _ in size))
        for factor, iterations in ITERATIONS.items():
            d, h, w = (max(-(-length // factor), min(length, SMALLEST)) for length in size)
            grid = (d, h, w)
            field = _resized(field, grid)
            one, other = (_compared(F.adaptive_avg_pool3d(frame, grid), axes) for frame in (first, second))
            for _ in range(iterations):
                field = _smooth(field + _smooth(_force(warp(one, 0.5 * field), warp(other, -0.5 * field), axes)))
        return _resized(field, size)


def _compared(frame: Float[Tensor, "b c d h w"], axes: Sequence[int]) -> Float[Tensor, "b 2*c d h w"]:
    """What two frames are compared by: intensities, and their normalised deviations from the neighbourhood's mean."""
    mean = local_mean(frame, RADIUS, axes)
    variance = (local_mean(frame.square(), RADIUS, axes) - mean.square()).clamp(min=0.0)
    return torch.cat([frame, LOCAL * (frame - mean) / (variance + FLAT**2).sqrt()], dim=1)


def _force(
    one: Float[Tensor, "b c d h w"], other: Float[Tensor, "b c d h w"], axes: Sequence[int]
) -> Float[Tensor, "b 3 d h w"]:
    """How far each voxel is pulled along the axes: at most half a voxel."""
    difference = other - one
    mean = 0.5 * (one + other)
    against = difference.square().sum(dim=1) + NOISE**2
    pulls = [torch.zeros_like(against)] * 3
    for axis in axes:
        slopes = central_difference(mean, axis)
        pulls[axis - 2] = (difference * slopes).sum(dim=1)
        against = against + slopes.square().sum(dim=1)
    return torch.stack(pulls, dim=1) / against[:, None]


def _smooth(field: Float[Tensor, "b 3 d h w"]) -> Float[Tensor, "b 3 d h w"]:
    for axis in (2, 3, 4):
        before, after = neighbours(field, axis)
        field = 0.5 * field + 0.25 * (before + after)
    return field


def _resized(field: Float[Tensor, "b 3 d h w"], size: Sequence[int]) -> Float[Tensor, "b 3 d h w"]:
    """On another grid, displacements in its voxels."""
    ratio = [new / old for new, old in zip(size, field.shape[-3:], strict=True)]
    return field.new_tensor(ratio).view(3, 1, 1, 1) * F.interpolate(field, size=list(size), mode="trilinear")
