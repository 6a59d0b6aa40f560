"""Displacement fields: warping a volume, and motion compensation, which moves frames instead of repainting them.

The prior network (`sadm_ray.model.prior`) predicts, smoothly in space, a velocity field for each reference frame. With
two frames it also predicts how far their weights shift, and how far along the displacement field between them
(`sadm_ray.model.registration`) the target lies from where time alone puts it. The change of the reference, in units of
`scale`, is part of the prior's mean.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sadm_ray.model.memory_bounds import by_slabs

VELOCITY, SHIFT, LEAP = 4.0, 2.0, 8.0
"""What one unit of the network's outputs is, per unit of the time scale: voxels; weight; time along the field."""


def motion_channels(references: int) -> int:
    """How many channels `motion_residual` takes: a velocity field for each frame, and two shifts with two frames."""
    return 3 * references + 2 * (references - 1)


def motion_residual(
    frames: Float[Tensor, "b s c d h w"],
    time_from_target: Float[Tensor, "b s"],
    weights: Float[Tensor, "b s"],
    motion: Float[Tensor, "b k d h w"],
    displacement: Float[Tensor, "b 3 d h w"] | None = None,
) -> Float[Tensor, "b c d h w"]:
    """What moving the frames and shifting their weights adds to the reference, Σ weight · frame.

    Displacements are velocities times the time between the frame and the target, so that little moves in a short while
    and nothing in none. A heart does not contract evenly in time, and a structure that one of two frames shows has to
    come from that one: so each voxel may shift the weights from linear interpolation, and the time along the
    displacement field. At the time of either frame both shifts are zero.

    Args:
        frames: one or two a target.
        time_from_target: how much later than the target they were acquired, in units of the time scale.
        weights: of each in the reference.
        motion: `motion_channels`; all zero changes nothing.
        displacement: from the first to the second, in voxels per unit of the time scale; none: without registration.
    """
    velocities, shifts = motion.split([3 * frames.shape[1], motion.shape[1] - 3 * frames.shape[1]], dim=1)
    moved = move_frames(frames, frame_fields(time_from_target, velocities, shifts[:, 1:], displacement))
    change = torch.einsum("bs,bscdhw->bcdhw", weights, moved - frames)
    if frames.shape[1] == 1:
        return change
    return change + SHIFT * reach_of(time_from_target) * shifts[:, :1] * (moved[:, 1] - moved[:, 0])


def frame_fields(
    time_from_target: Float[Tensor, "b s"],
    velocities: Float[Tensor, "b 3*s d h w"],
    leap: Float[Tensor, "b _ d h w"],
    displacement: Float[Tensor, "b 3 d h w"] | None,
) -> Float[Tensor, "b s 3 d h w"]:
    """The displacement field of each frame, in voxels: where each voxel of the target is looked up in it.

    Args:
        velocities: of each frame.
        leap: how far along `displacement` the target lies from where time puts it; not read without registration.
        time_from_target, displacement: as in `motion_residual`.
    """
    reach = VELOCITY * speed_of(displacement) * time_from_target[:, :, None, None, None]
    fields = reach[:, :, None] * velocities.unflatten(1, (-1, 3))
    if displacement is None:
        return fields
    return fields + (LEAP * reach_of(time_from_target) * leap * displacement)[:, None]


def move_frames(
    frames: Float[Tensor, "b s c d h w"], fields: Float[Tensor, "b s 3 d h w"]
) -> Float[Tensor, "b s c d h w"]:
    """Each frame warped by its own field."""
    return torch.stack([warp(*each) for each in zip(frames.unbind(dim=1), fields.unbind(dim=1), strict=True)], dim=1)


def reach_of(time_from_target: Float[Tensor, "b s"]) -> Float[Tensor, "b 1 1 1 1"]:
    """How far in time the target is from the nearest frame."""
    return time_from_target.abs().amin(dim=1)[:, None, None, None, None]


def speed_of(displacement: Float[Tensor, "b 3 d h w"] | None) -> Float[Tensor, "b 1 1 1 1"] | float:
    """The root mean square of each subject's displacement field, the unit of its velocities; 1 where nothing moves."""
    if displacement is None:
        return 1.0
    seen = displacement.square().sum(dim=1, keepdim=True).mean(dim=(2, 3, 4), keepdim=True).sqrt()
    return torch.where(seen > 0, seen, 1.0)


def warp(
    volume: Float[Tensor, "b c *size"], field: Float[Tensor, "b k *size"], share: float = 1.0
) -> Float[Tensor, "b c *size"]:
    """Look up each voxel of the result at its own place plus `share` of `field` (in voxels), linearly along each axis.

    Places outside the volume take its nearest voxel.

    Args:
        volume: with three axes d h w, or an image with two.
        field: one channel for each of these axes, in their order.
    """
    sizes = volume.shape[2:]
    # grid_sample wants the last axis first, with −1 and 1 at the outer faces of the first and last voxel.
    axes = [(2.0 * torch.arange(size, device=volume.device, dtype=field.dtype) + 1.0) / size - 1.0 for size in sizes]

    def look_up(field: Tensor, *own: Tensor) -> Tensor:
        places = [torch.add(place, field[:, axis], alpha=2.0 * share / sizes[axis]) for axis, place in enumerate(own)]
        grid = torch.stack(places[::-1], dim=1).to(volume.dtype).movedim(1, -1)
        return F.grid_sample(volume, grid, mode="bilinear", padding_mode="border", align_corners=False)

    own = torch.meshgrid(*axes, indexing="ij")
    return by_slabs(look_up, field, *own) if len(sizes) == 3 else look_up(field, *own)
