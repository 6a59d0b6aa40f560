"""The denoiser: a U-Net conditioned on the noise level."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sadm_ray.config import DenoiserSettings
from sadm_ray.model.layers import Fourier, space_to_depth
from sadm_ray.model.unet import UNet


class Denoiser(nn.Module):
    """(z, λ, condition) → a volume of `channels` channels.

    Args:
        channels: of a volume.
        condition_channels: of the condition, which lies on the grid of the stem.
    """

    def __init__(self, settings: DenoiserSettings, channels: int, condition_channels: int) -> None:
        super().__init__()
        self.patch, embedding = settings.patch, 2 * settings.widths[0]
        self.noise_level = Fourier(1, embedding)
        inputs = channels * math.prod(settings.patch) + condition_channels
        self.unet = UNet(settings, settings.patch, inputs, channels, embedding=embedding)

    def forward(
        self,
        z: Float[Tensor, "b c d h w"],
        log_snr: Float[Tensor, " b"],
        condition: Float[Tensor, "b n e f g"],
    ) -> Float[Tensor, "b c d h w"]:
        level = self.noise_level(log_snr[:, None] / 8.0)  # λ spans about ±12; the features need about ±1
        volume, _ = self.unet(torch.cat([space_to_depth(z, self.patch), condition], dim=1), level)
        return volume
