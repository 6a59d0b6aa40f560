"""Volumes of thick slices as stacks of images: nothing is followed from one slice to the next, so two axes are enough.

On a CPU images are looked up several times as fast as volumes, and give the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from sadm_ray.model.displacement_field import warp
from sadm_ray.model.finite_differences import AXES, axes_within_slices


def image_axes(followed: Sequence[int]) -> Sequence[int]:
    """The axes (2 to 4, of b c d h w) of an image: the two `followed` within slices, else those of the volume."""
    return followed if len(followed) == 2 else AXES


def stacked(volume: Float[Tensor, "b c d h w"], axes: Sequence[int]) -> Float[Tensor, "b s c *size"]:
    """The s slices with these axes; the whole volume as the only one, where it has none."""
    return volume[:, None] if len(axes) == len(AXES) else volume.movedim(_across(axes), 1)


def unstacked(images: Float[Tensor, "b s c *size"], axes: Sequence[int]) -> Float[Tensor, "b c d h w"]:
    """The inverse of `stacked`."""
    return images[:, 0] if len(axes) == len(AXES) else images.movedim(1, _across(axes))


def warp_stacked(
    images: Float[Tensor, "b s c *size"], field: Float[Tensor, "b s k *size"], share: float = 1.0
) -> Float[Tensor, "b s c *size"]:
    """`warp` of each image along a share of its own field."""
    return warp(images.flatten(0, 1), field.flatten(0, 1), share).unflatten(0, images.shape[:2])


def warp_within_slices(
    volume: Float[Tensor, "b c d h w"], field: Float[Tensor, "b 3 d h w"]
) -> Float[Tensor, "b c d h w"]:
    """`warp` along a field that `register` found: it leads nowhere from one slice to the next.

    A field is NaN only where the frames or the time warp's weights are, which shows in the result too. There nothing is
    moved, since PyTorch does not bear such places in the gradient of images.
    """
    axes = image_axes(axes_within_slices(volume.shape[-3:]))
    along = field[:, [axis - AXES[0] for axis in axes]].nan_to_num(nan=0.0)
    return unstacked(warp_stacked(stacked(volume, axes), stacked(along, axes)), axes)


def _across(axes: Sequence[int]) -> int:
    """The axis that runs across the slices."""
    return next(axis for axis in AXES if axis not in axes)
