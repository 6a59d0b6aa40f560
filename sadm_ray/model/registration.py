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
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.model.finite_differences import (
    AXES,
    axes_within_slices,
    binomial_mean,
    local_mean,
    neighbour_difference,
)
from sadm_ray.model.resizing import resized
from sadm_ray.model.slices import image_axes, stacked, unstacked, warp_stacked, warp_within_slices
from sadm_ray.model.time_warp import TimeWarp

ITERATIONS = {4: 16, 2: 12, 1: 4}
"""By how much frames are shrunk, and the steps then: at their full size a step costs four to eight times as much, and
more of them gain 0.005 dB (docs/experiments/2026-11-30-speed.md)."""
SMALLEST = 8
"""No axis is shrunk below this."""
RADIUS, FLAT, LOCAL = 2, 0.02, 0.25
"""A neighbourhood reaches so many voxels to each side; a deviation of intensity in it that is noise; and what one
deviation counts as, in units of intensity."""
NOISE = 0.1
"""A difference of intensity that is noise."""


class RegisteredPairs:
    """The displacement fields of pairs of frames: a pair is registered once, for all targets that follow each other."""

    def __init__(self) -> None:
        self._fields: dict[tuple[int, ...], Float[Tensor, "3 d h w"]] = {}

    def field_of(self, references: ReferenceFrames, places: Int[Tensor, "b 2"]) -> Float[Tensor, "b 3 d h w"]:
        """The field from the first to the second frame of each target, in voxels; zero of a frame that is alone.

        Of several channels those count that both frames have themselves.

        Args:
            places: of the frames in their sequence, which is the row: what was registered is known by them.
        """
        pairs = [(row, *pair) for row, pair in enumerate(places.tolist())]
        new = [row for row, pair in enumerate(pairs) if pair not in self._fields]
        known = {pair: self._fields[pair] for pair in pairs if pair in self._fields}
        if new:
            its = references if len(new) == len(pairs) else references.of(new)
            first, second = its.frames[:, 0], its.frames[:, 1]
            both = 1.0 if its.has_channel is None else its.has_channel.all(dim=1)[..., None, None, None]
            found = its.is_pair[:, None, None, None, None] * register(first * both, second * both)
            known |= {pairs[row]: field for row, field in zip(new, found, strict=True)}
        self._fields = known  # of other pairs nothing is kept
        return torch.stack([known[pair] for pair in pairs])


def aligned(
    references: ReferenceFrames,
    field: Float[Tensor, "b 3 d h w"],
    target_time: Float[Tensor, " b"],
    time_warp: TimeWarp,
) -> ReferenceFrames:
    """The two frames, each warped along the displacement field between them to the target's time; with that field.

    Between the frames `time_warp` maps time to a share of the way, for the weights too. Beyond them both are moved to
    the nearest frame: the prior network predicts how the motion goes on.

    Of several channels one that is filled is not moved: it was acquired at another time.

    Args:
        field: of each pair, in voxels.
    """
    between = references.time_from_target[:, 1] - references.time_from_target[:, 0]
    between = torch.where(references.is_pair, between, 1.0)
    start = target_time + references.time_from_target[:, 0]
    share = (time_warp(start, target_time) / time_warp(start, start + between)).clamp(0.0, 1.0)
    passed, between = (each[:, None, None, None, None] for each in (share, between))
    first, second = references.frames[:, 0], references.frames[:, 1]
    moved = torch.stack(
        [warp_within_slices(first, passed * field), warp_within_slices(second, (passed - 1.0) * field)], dim=1
    )
    if references.has_channel is not None:
        moved = torch.where(references.has_channel[..., None, None, None], moved, references.frames)
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
        field = first.new_zeros(len(first), 3, *(1 for _ in size))
        for factor, iterations in ITERATIONS.items():
            d, h, w = (max(-(-length // factor), min(length, SMALLEST)) for length in size)
            grid = (d, h, w)
            one, other = (_shrunk(frame, grid) for frame in (first, second))
            field = _demons(_resized(field, grid), one, other, axes_within_slices(size), iterations)
        return _resized(field, size)


def _demons(
    field: Float[Tensor, "b 3 d h w"],
    first: Float[Tensor, "b c d h w"],
    second: Float[Tensor, "b c d h w"],
    followed: Sequence[int],
    iterations: int,
) -> Float[Tensor, "b 3 d h w"]:
    """The field after so many steps on one grid; nothing moves along other axes than those `followed`."""
    axes = image_axes(followed)
    first, second = (stacked(_compared(frame, followed), axes).contiguous() for frame in (first, second))
    components = [axis - AXES[0] for axis in axes]
    along = stacked(field[:, components], axes).contiguous()
    follow = [axis in followed for axis in axes]
    for _ in range(iterations):
        force = _force(warp_stacked(first, along, 0.5), warp_stacked(second, along, -0.5), follow)
        along = _smooth(along.add_(_smooth(force)))
    field = torch.zeros_like(field)
    field[:, components] = unstacked(along, axes)
    return field


def _compared(frame: Float[Tensor, "b c d h w"], axes: Sequence[int]) -> Float[Tensor, "b 2*c d h w"]:
    """What two frames are compared by: intensities, and their normalised deviations from the neighbourhood's mean."""
    mean = local_mean(frame, RADIUS, axes)
    variance = (local_mean(frame.square(), RADIUS, axes) - mean.square()).clamp(min=0.0)
    return torch.cat([frame, LOCAL * (frame - mean) / (variance + FLAT**2).sqrt()], dim=1)


def _force(
    one: Float[Tensor, "b s c *size"], other: Float[Tensor, "b s c *size"], followed: Sequence[bool]
) -> Float[Tensor, "b s k *size"]:
    """How far each voxel is pulled along the axes of an image: at most half a voxel, and not along others."""
    difference, total = other - one, one + other
    against = _dot(difference, difference).add_(NOISE**2).mul_(4.0)  # four times, as the slopes are of the mean
    pulls = [torch.zeros_like(against)] * len(followed)
    for axis in (axis for axis, follow in enumerate(followed) if follow):
        slopes = neighbour_difference(total, 3 + axis)
        pulls[axis] = _dot(difference, slopes)
        against.add_(_dot(slopes, slopes), alpha=0.25)
    return torch.stack(pulls, dim=2).div_(against[:, :, None])


def _dot(one: Float[Tensor, "b s c *size"], other: Float[Tensor, "b s c *size"]) -> Float[Tensor, "b s *size"]:
    """The sum of the products over the channels."""
    (first, second), *others = zip(one.unbind(dim=2), other.unbind(dim=2), strict=True)
    total = first * second
    for first, second in others:
        total.addcmul_(first, second)
    return total


def _smooth(field: Float[Tensor, "b s k *size"]) -> Float[Tensor, "b s k *size"]:
    """The binomial mean along all axes of the volume, across slices too."""
    for axis in (1, *range(3, field.ndim)):
        if field.shape[axis] > 1:
            field = binomial_mean(field, axis)
    return field


def _shrunk(frame: Float[Tensor, "b c d h w"], size: tuple[int, int, int]) -> Tensor:
    return frame if frame.shape[-3:] == size else F.adaptive_avg_pool3d(frame, size)


def _resized(field: Float[Tensor, "b 3 d h w"], size: Sequence[int]) -> Float[Tensor, "b 3 d h w"]:
    """On another grid, displacements in its voxels."""
    ratio = [new / old for new, old in zip(size, field.shape[-3:], strict=True)]
    return field.new_tensor(ratio).view(3, 1, 1, 1) * resized(field, size)
