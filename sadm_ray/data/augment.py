"""Augmentation of whole sequences: every frame of a sequence is changed alike, so that change in time stays what it is.

Plain PyTorch on the device of the batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sadm_ray.config import AugmentSettings
from sadm_ray.data.chance import Chance


def augment(
    frames: Float[Tensor, "b t c d h w"], settings: AugmentSettings, chance: Chance
) -> Float[Tensor, "b t c d h w"]:
    """Flip, shift and rescale each sequence by draws of its own.

    Args:
        chance: of these samples, on their device.
    """
    if any(settings.flip):
        frames = _flipped(frames, chance.uniform("flip", 3) < torch.tensor(settings.flip, device=frames.device))
    if any(settings.shift):
        reach = torch.tensor(
            [fraction * size for fraction, size in zip(settings.shift, frames.shape[-3:], strict=True)],
            device=frames.device,
        )
        frames = _shifted(frames, ((2 * chance.uniform("shift", 3) - 1) * reach).round().long())
    if settings.gain or settings.offset:
        gain, offset = (2 * chance.uniform("intensity", 2, 1, 1, 1, 1, 1) - 1).unbind(dim=1)
        frames = frames * (1 + settings.gain * gain) + settings.offset * offset
    return frames


def _flipped(frames: Tensor, flips: Bool[Tensor, "b 3"]) -> Tensor:
    for axis, chosen in zip((-3, -2, -1), flips.unbind(dim=1), strict=True):
        frames = torch.where(chosen.view(-1, 1, 1, 1, 1, 1), frames.flip(axis), frames)
    return frames


def _shifted(frames: Tensor, shifts: Int[Tensor, "b 3"]) -> Tensor:
    """Move by whole voxels, so that nothing is blurred; the border is repeated."""
    for axis, by in zip((-3, -2, -1), shifts.unbind(dim=1), strict=True):
        size = frames.shape[axis]
        source = (torch.arange(size, device=frames.device) - by[:, None]).clamp(0, size - 1)  # b, size
        shape = [len(frames), *[1] * (frames.ndim - 1)]
        shape[axis] = size
        frames = frames.gather(axis, source.view(shape).expand_as(frames))
    return frames
