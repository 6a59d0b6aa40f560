"""The denoiser: a 3D U-Net on the grid of a lossless stem."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sadm_ray.config import DenoiserSettings
from sadm_ray.model.layers import (
    Fourier,
    ResBlock,
    SpatialAttention,
    Stage,
    depth_to_space,
    group_norm,
    space_to_depth,
    zeroed,
)


class Denoiser(nn.Module):
    """(z, λ, condition) → `outputs` channels on the grid of z.

    Attention over all sites stands at the coarsest level. The last layer starts at zero.

    Args:
        channels: of a volume.
        condition_channels: of the condition, which lies on the grid of the stem.
        outputs: channels of the result, if not those of a volume.
    """

    def __init__(
        self, settings: DenoiserSettings, channels: int, condition_channels: int, outputs: int | None = None
    ) -> None:
        super().__init__()
        self.patch = settings.patch
        widths, blocks = settings.widths, settings.blocks
        voxels, embedding = math.prod(settings.patch), 2 * widths[0]
        self.noise_level = Fourier(1, embedding)
        self.enter = nn.Conv3d(channels * voxels + condition_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Stage(width, width, blocks, embedding) for width in widths)
        self.sink = nn.ModuleList(nn.Conv3d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.attention = SpatialAttention(widths[-1], settings.heads)
        self.bottom = ResBlock(widths[-1], widths[-1], embedding)
        self.rise = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(Stage(2 * width, width, blocks, embedding) for width in widths[:-1])
        self.leave = nn.Sequential(
            group_norm(widths[0]), nn.SiLU(), zeroed(nn.Conv3d(widths[0], (outputs or channels) * voxels, 1))
        )

    def forward(
        self,
        z: Float[Tensor, "b c d h w"],
        log_snr: Float[Tensor, " b"],
        condition: Float[Tensor, "b n e f g"],
    ) -> Float[Tensor, "b k d h w"]:
        level = self.noise_level(log_snr[:, None] / 8.0)  # λ spans about ±12; the features want about ±1
        x = self.enter(torch.cat([space_to_depth(z, self.patch), condition], dim=1))
        skips = []
        for stage, sink in zip(self.down, self.sink, strict=False):
            x = stage(x, level)
            skips.append(x)
            x = sink(x)
        x = self.down[-1](x, level)
        x = self.bottom(self.attention(x), level)
        for rise, stage in zip(reversed(self.rise), reversed(self.up), strict=True):
            skip = skips.pop()
            x = F.interpolate(rise(x), size=skip.shape[-3:], mode="nearest")
            x = stage(torch.cat([x, skip], dim=1), level)
        return depth_to_space(self.leave(x), self.patch)
