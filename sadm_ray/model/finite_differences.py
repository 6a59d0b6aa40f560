"""Finite differences of a volume, and means over a voxel's neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

AXES = (2, 3, 4)
"""The axes of space, in b c d h w."""
SLICES = 0.5
"""An axis shorter than this part of the longest runs across thick slices, whose anatomy differs."""


def axes_within_slices(size: Sequence[int]) -> list[int]:
    """Of a volume of d h w voxels the axes along which neighbours show the same tissue; all, if it has no slices."""
    return [axis for axis, length in zip(AXES, size, strict=True) if length >= SLICES * max(size)]


def local_mean(volume: Float[Tensor, "b c d h w"], radius: int, axes: Sequence[int]) -> Float[Tensor, "b c d h w"]:
    """The mean over so many voxels to each side along these axes, of those inside the volume."""
    radii = [min(radius, (volume.shape[axis] - 1) // 2) if axis in axes else 0 for axis in AXES]
    return F.avg_pool3d(volume, [2 * each + 1 for each in radii], 1, radii, count_include_pad=False)


def central_difference(volume: Float[Tensor, "b c d h w"], axis: int) -> Float[Tensor, "b c d h w"]:
    """The derivative along an axis, per voxel, by central differences; the border voxel is repeated outside."""
    before, after = neighbours(volume, axis)
    return 0.5 * (after - before)


def gradient_magnitude(volume: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
    """The length of the gradient, per voxel, by `central_difference`."""
    squares = torch.zeros_like(volume)
    for axis in AXES:
        squares += central_difference(volume, axis).square()
    return squares.sqrt()


def neighbours(volume: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Of each voxel the one before it and the one after it; at the border, itself."""
    size = volume.shape[axis]
    places = torch.arange(size, device=volume.device)
    before, after = (places - 1).clamp(min=0), (places + 1).clamp(max=size - 1)
    return volume.index_select(axis, before), volume.index_select(axis, after)
