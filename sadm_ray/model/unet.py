"""A 3D U-Net on the grid of a lossless stem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sadm_ray.config import NetworkSettings
from sadm_ray.model.layers import (
    Convolution,
    PatchSize,
    ResBlock,
    SpatialAttention,
    Stage,
    depth_to_space,
    group_norm,
    zeroed,
)
from sadm_ray.model.resizing import resized


class UNet(nn.Module):
    """Features on the grid of the stem → `outputs` channels on the grid of the voxels.

    Attention over all sites stands at the coarsest level. The last layer starts at zero. `SmoothOutputs` makes channels
    from the features of all levels that are no finer than a site of the stem.

    Args:
        patch: of the stem (d h w).
        inputs: channels of the features.
        outputs: channels of the result.
        embedding: size of the embedding that modulates every block; none: no modulation.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        patch: PatchSize,
        inputs: int,
        outputs: int,
        embedding: int | None = None,
    ) -> None:
        super().__init__()
        self.patch = patch
        widths, blocks = settings.widths, settings.blocks
        self.enter = Convolution(inputs, widths[0])
        self.down = nn.ModuleList(Stage(width, width, blocks, embedding) for width in widths)
        self.sink = nn.ModuleList(nn.Conv3d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.attention = SpatialAttention(widths[-1], settings.heads)
        self.bottom = ResBlock(widths[-1], widths[-1], embedding)
        self.rise = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(Stage(2 * width, width, blocks, embedding) for width in widths[:-1])
        self.leave = last_layer(widths[0], outputs * math.prod(patch))

    def forward(
        self, x: Float[Tensor, "b n e f g"], embedding: Float[Tensor, "b m"] | None = None
    ) -> tuple[Float[Tensor, "b k d h w"], list[Float[Tensor, "b m e f g"]]]:
        """The channels on the voxels' grid, and the features of all levels, from coarse to fine."""
        x = self.enter(x.contiguous(memory_format=torch.channels_last_3d))  # as the convolutions want it
        skips = []
        for stage, sink in zip(self.down, self.sink, strict=False):
            x = stage(x, embedding)
            skips.append(x)
            x = sink(x)
        x = self.down[-1](x, embedding)
        x = self.bottom(self.attention(x), embedding)
        features = [x]
        for rise, stage in zip(reversed(self.rise), reversed(self.up), strict=True):
            skip = skips.pop()
            x = F.interpolate(rise(x), size=skip.shape[-3:], mode="nearest")
            x = stage(torch.cat([x, skip], dim=1), embedding)
            features.append(x)
        return depth_to_space(self.leave(x), self.patch), features


class SmoothOutputs(nn.Module):
    """Features of all levels of a `UNet` → channels that are no finer than a site of its stem.

    They are the sum of an output of every level, each on its own grid, interpolated; they start at zero.

    Args:
        widths: of the U-Net.
        channels: how many there are.
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(last_layer(width, channels) for width in widths)

    def forward(self, features: Sequence[Float[Tensor, "b m e f g"]]) -> Float[Tensor, "b s e f g"]:
        """On the grid of the stem; `features` as `UNet` returns them."""
        first, *others = (last(x) for last, x in zip(reversed(self.levels), features, strict=True))
        for finer in others:
            first = finer + resized(first, finer.shape[-3:])
        return first


def last_layer(inputs: int, outputs: int) -> nn.Sequential:
    """A last layer, which starts at zero."""
    return nn.Sequential(group_norm(inputs), nn.SiLU(), zeroed(nn.Conv3d(inputs, outputs, 1)))
