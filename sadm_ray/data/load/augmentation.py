"""Augmentation of whole sequences: all frames of a sequence change alike, so that change over time is kept.

Plain PyTorch on the device of the batch.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sadm_ray.config import AugmentSettings
from sadm_ray.data.load.rng import SampleRng


def augment(
    frames: Float[Tensor, "b t c d h w"], settings: AugmentSettings, rng: SampleRng
) -> Float[Tensor, "b t c d h w"]:
    """Flip, turn, zoom, shift and rescale each sequence by its own random draws.

    Args:
        rng: of these samples, on their device.
    """
    if any(settings.flip):
        frames = _flipped(frames, rng.uniform("flip", 3) < torch.tensor(settings.flip, device=frames.device))
    shifts = torch.zeros(len(frames), 3, dtype=torch.long, device=frames.device)
    if any(settings.shift):
        limit = torch.tensor(
            [fraction * size for fraction, size in zip(settings.shift, frames.shape[-3:], strict=True)],
            device=frames.device,
        )
        shifts = ((2 * rng.uniform("shift", 3) - 1) * limit).round().long()
    if settings.turn or settings.zoom:
        turn, zoom = (2 * rng.uniform("turn", 2) - 1).unbind(dim=1)
        frames = _turned(frames, turn * math.radians(settings.turn), 1 + settings.zoom * zoom, shifts[:, 1:])
        shifts = shifts * torch.tensor([1, 0, 0], device=shifts.device)
    if shifts.any():
        frames = _shifted(frames, shifts)
    if settings.gain or settings.offset:
        gain, offset = (2 * rng.uniform("intensity", 2, 1, 1, 1, 1, 1) - 1).unbind(dim=1)
        frames = frames * (1 + settings.gain * gain) + settings.offset * offset
    return frames


def _flipped(frames: Tensor, flips: Bool[Tensor, "b 3"]) -> Tensor:
    for axis, chosen in zip((-3, -2, -1), flips.unbind(dim=1), strict=True):
        frames = torch.where(chosen.view(-1, 1, 1, 1, 1, 1), frames.flip(axis), frames)
    return frames


def _turned(
    frames: Tensor, angles: Float[Tensor, " b"], factors: Float[Tensor, " b"], shifts: Int[Tensor, "b 2"]
) -> Tensor:
    """Turn every slice about its middle, enlarge it and then move it (h w), all in voxels, by one interpolation."""
    b, t, c, d, h, w = frames.shape
    cosine, sine = angles.cos() / factors, angles.sin() / factors
    # affine_grid counts from −1 to 1 along each axis, w first; each output voxel looks up its source.
    rows = torch.stack([cosine, sine * h / w], dim=1), torch.stack([-sine * w / h, cosine], dim=1)
    turned = torch.stack(rows, dim=1)
    moved = -2.0 * shifts.flip(1) / torch.tensor([w, h], device=frames.device)
    theta = torch.cat([turned, turned @ moved[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [b, 1, h, w], align_corners=False)
    slices = frames.reshape(b, t * c * d, h, w)
    resampled = F.grid_sample(slices, grid, mode="bicubic", padding_mode="border", align_corners=False)
    low, high = slices.amin(dim=(2, 3), keepdim=True), slices.amax(dim=(2, 3), keepdim=True)
    return resampled.clamp(low, high).reshape(frames.shape)  # cubics overshoot at edges


def _shifted(frames: Tensor, shifts: Int[Tensor, "b 3"]) -> Tensor:
    """Move by whole voxels, so that nothing is blurred; the border is repeated."""
    for axis, by in zip((-3, -2, -1), shifts.unbind(dim=1), strict=True):
        if not by.any():
            continue
        size = frames.shape[axis]
        source = (torch.arange(size, device=frames.device) - by[:, None]).clamp(0, size - 1)  # b, size
        shape = [len(frames), *[1] * (frames.ndim - 1)]
        shape[axis] = size
        frames = frames.gather(axis, source.view(shape).expand_as(frames))
    return frames
