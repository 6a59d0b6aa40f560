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


def central_difference(volume: Tensor, axis: int) -> Tensor:
    """The derivative along an axis, per voxel, without gradients; the border voxel is repeated outside."""
    return neighbour_difference(volume, axis).mul_(0.5)


@torch.no_grad()
def neighbour_difference(volume: Tensor, axis: int) -> Tensor:
    """Of each voxel the next one less the one before: twice the `central_difference`."""
    last, difference = volume.shape[axis] - 1, torch.empty_like(volume)
    for to, before, after, count in ((0, 0, min(1, last), 1), (1, 0, 2, last - 1), (last, max(last - 1, 0), last, 1)):
        if count > 0:
            later, earlier = (volume.narrow(axis, place, count) for place in (after, before))
            torch.sub(later, earlier, out=difference.narrow(axis, to, count))
    return difference


@torch.no_grad()
def binomial_mean(volume: Tensor, axis: int) -> Tensor:
    """Each voxel's mean with its two neighbours along an axis, weights ¼ ½ ¼; the border voxel is repeated outside."""
    last, mean = volume.shape[axis] - 1, 0.5 * volume
    # Slices that are added in place: several times as fast as to gather the neighbours, or a convolution.
    for to, of, count in ((1, 0, last), (0, 1, last), (0, 0, 1), (last, last, 1)):
        mean.narrow(axis, to, count).add_(volume.narrow(axis, of, count), alpha=0.25)
    return mean


def gradient_magnitude(volume: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
    """The length of the gradient, per voxel, by `central_difference`."""
    squares = torch.zeros_like(volume)
    for axis in AXES:
        squares += central_difference(volume, axis).square()
    return squares.sqrt()
