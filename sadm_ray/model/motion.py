"""Motion compensation: moving the observed frames instead of painting what moved.

The guess (`sadm_ray.model.guess`) says, smoothly in space, velocities for each frame that makes the reference; of two
also how far their weights shift from the one to the other, and how far along the path that was seen between them
(`sadm_ray.model.registration`) the target lies from where time alone would put it. What this does to the reference, in
units of `scale`, is what is expected of x before looking at z (the mean of `sadm_ray.diffusion.posterior`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

VELOCITY, SHIFT, LEAP = 4.0, 2.0, 8.0
"""What one unit of the network's outputs is, in one unit of the time scale: voxels; weight; time along the path."""


def motion_channels(sides: int) -> int:
    """How many channels `change_by_motion` takes: a field for each side, and two shifts between two."""
    return 3 * sides + 2 * (sides - 1)


def change_by_motion(
    frames: Float[Tensor, "b s c d h w"],
    ahead: Float[Tensor, "b s"],
    weights: Float[Tensor, "b s"],
    motion: Float[Tensor, "b k d h w"],
    path: Float[Tensor, "b 3 d h w"] | None = None,
) -> Float[Tensor, "b c d h w"]:
    """What moving the frames and shifting their weights adds to the reference, Σ weight · frame.

    Displacements are velocities times the time between the frame and the target, so that little moves in a short while
    and nothing in none. A heart does not contract evenly in time, so the weight of a frame is not that of linear
    interpolation, and what is seen in one of two frames only has to come from there; at the time of either frame the
    weights are what they are. Nor does what moves along a path do so evenly: there time itself is shifted.

    Args:
        frames: one or two a target.
        ahead: how much later than the target they were acquired, in units of the time scale.
        weights: of each in the reference.
        motion: `motion_channels`; all zero changes nothing.
        path: from the first to the second, in voxels a unit of the time scale; none: nobody looked.
    """
    *velocities, shifts = motion.tensor_split([3 * (side + 1) for side in range(frames.shape[1])], dim=1)
    reach = ahead.abs().amin(dim=1)[:, None, None, None, None]
    along = 0.0 if path is None else LEAP * reach * shifts[:, 1:] * path
    unit = VELOCITY * _speed_of(path)
    fields = [
        unit * by[:, None, None, None, None] * velocity + along
        for by, velocity in zip(ahead.unbind(dim=1), velocities, strict=True)
    ]
    moved_frames = [warp(frame, field) for frame, field in zip(frames.unbind(dim=1), fields, strict=True)]
    moved = torch.stack(moved_frames, dim=1)
    change = torch.einsum("bs,bscdhw->bcdhw", weights, moved - frames)
    if len(fields) == 1:
        return change
    return change + SHIFT * reach * shifts[:, :1] * (moved[:, 1] - moved[:, 0])


def _speed_of(path: Tensor | None) -> Tensor | float:
    """How quickly these move, of which the velocities are parts: who moved little will move little."""
    if path is None:
        return 1.0
    seen = path.square().sum(dim=1, keepdim=True).mean(dim=(2, 3, 4), keepdim=True).sqrt()
    return torch.where(seen > 0, seen, 1.0)


def warp(volume: Float[Tensor, "b c d h w"], field: Float[Tensor, "b 3 d h w"]) -> Float[Tensor, "b c d h w"]:
    """Look up each voxel of the result at its own place plus `field` (in voxels, axes d h w), trilinearly.

    Places outside the volume take its nearest voxel.
    """
    sizes = volume.shape[-3:]
    axes = [torch.arange(size, device=volume.device, dtype=field.dtype) for size in sizes]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")) + field
    # grid_sample wants the last axis first, with −1 and 1 at the outer faces of the first and last voxel.
    scaled = [(2.0 * places[:, axis] + 1.0) / sizes[axis] - 1.0 for axis in (2, 1, 0)]
    grid = torch.stack(scaled, dim=-1).to(volume.dtype)
    return F.grid_sample(volume, grid, mode="bilinear", padding_mode="border", align_corners=False)
