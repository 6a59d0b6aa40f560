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
    """Features on the grid of the stem → `outputs` channels and `smooth` ones on the grid of the voxels.

    Attention over all sites stands at the coarsest level. The last layers start at zero. Smooth channels are the sum of
    the outputs of all levels, each on its own grid, interpolated: none is finer than a site of the stem.

    Args:
        patch: of the stem (d h w).
        inputs: channels of the features.
        outputs: channels of the result.
        smooth: more channels, behind these.
        embedding: size of the embedding that modulates every block; none: no modulation.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        patch: PatchSize,
        inputs: int,
        outputs: int,
        smooth: int = 0,
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
        self.leave = _last(widths[0], outputs * math.prod(patch))
        self.smooth = nn.ModuleList(_last(width, smooth) for width in widths if smooth)

    def forward(
        self, x: Float[Tensor, "b n e f g"], embedding: Float[Tensor, "b m"] | None = None
    ) -> Float[Tensor, "b k d h w"]:
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
        sharp = depth_to_space(self.leave(x), self.patch)
        return torch.cat([sharp, self._smooth(features, sharp)], dim=1) if self.smooth else sharp

    def _smooth(self, features: Sequence[Tensor], like: Tensor) -> Float[Tensor, "b s d h w"]:
        """The sum of the outputs of all levels, from coarse to fine, on the grid of `like`."""
        first, *others = (head(x) for head, x in zip(reversed(self.smooth), features, strict=True))
        for finer in others:
            first = finer + resized(first, finer.shape[-3:])
        return resized(first.to(like.dtype), like.shape[-3:])


def _last(inputs: int, outputs: int) -> nn.Sequential:
    """A last layer, which starts at zero."""
    return nn.Sequential(group_norm(inputs), nn.SiLU(), zeroed(nn.Conv3d(inputs, outputs, 1)))
