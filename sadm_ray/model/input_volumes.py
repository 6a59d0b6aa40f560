"""The volumes that a model is given: padded to its patches, without the voxels of channels that a frame lacks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from sadm_ray.model.layers import PatchSize


def padded_to(volumes: Float[Tensor, "... d h w"], patch: PatchSize, *, allowed: bool) -> Float[Tensor, "... D H W"]:
    """Volumes of a size that the patch divides, the border voxels repeated behind them where it takes that.

    Raises:
        ValueError: the patch does not divide them, and padding is not allowed.
    """
    missing = [-size % edge for size, edge in zip(volumes.shape[-3:], patch, strict=True)]
    if not any(missing):
        return volumes
    if not allowed:
        raise ValueError(
            f"volumes of {tuple(volumes.shape[-3:])} (d h w) are not divided by the model's patch {patch}; resize "
            "them, or set model.pad=true"
        )
    d, h, w = missing
    flat = F.pad(volumes.flatten(0, -5), (0, w, 0, h, 0, d), mode="replicate")
    return flat.reshape(*volumes.shape[:-3], *flat.shape[-3:])


def without_absent_channels(
    frames: Float[Tensor, "b t c d h w"], has_channel: Bool[Tensor, "b t c"] | None
) -> tuple[Float[Tensor, "b t c d h w"], Bool[Tensor, "b t c"] | None]:
    """Zeros where a frame lacks a channel, and which channels each has; with one channel nothing is to be told."""
    if frames.shape[2] == 1:
        return frames, None
    if has_channel is None:
        return frames, torch.ones(frames.shape[:3], dtype=torch.bool, device=frames.device)
    return torch.where(has_channel[..., None, None, None], frames, 0.0), has_channel
