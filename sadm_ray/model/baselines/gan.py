"""The paper's GAN baseline, after Campello et al. (2022): an image from one source image and the target's time.

A U-Net generator, and a discriminator that judges patches (Isola et al., pix2pix, 2017); L1 and an adversarial loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sadm_ray.config import SamplingSettings
from sadm_ray.diffusion.loss import channel_mean
from sadm_ray.diffusion.samplers import SeededNoise
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.denoiser import Denoiser
from sadm_ray.model.encoded_sequence import TargetContext
from sadm_ray.model.layers import Convolution, PatchSize, group_norm, space_to_depth
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.single_frame_conditioner import SingleFrameConditioner

ADVERSARIAL_WEIGHT = 0.01
"""Beside an L1 loss of weight 1, as in pix2pix."""


class PatchDiscriminator(nn.Module):
    """Whether this is the target of that source: a logit for each neighbourhood."""

    def __init__(self, channels: int, condition_channels: int, patch: PatchSize, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.patch = patch
        voxels = patch[0] * patch[1] * patch[2]
        layers: list[nn.Module] = [Convolution(channels * voxels + condition_channels, widths[0])]
        for fine, coarse in pairwise(widths):
            layers += [nn.LeakyReLU(0.2), nn.Conv3d(fine, coarse, 3, stride=2, padding=1), group_norm(coarse)]
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Conv3d(widths[-1], 1, 1))

    def forward(
        self, difference: Float[Tensor, "b c d h w"], condition: Float[Tensor, "b k e f g"]
    ) -> Float[Tensor, "b n"]:
        return self.layers(torch.cat([space_to_depth(difference, self.patch), condition], dim=1)).flatten(1)


class Gan(SequenceModel):
    """Generator and discriminator, trained in the same steps. Nothing is random: every sample is the same.

    What is generated and judged is the scaled difference from the source, so that a generator that has learned nothing
    copies the source.
    """

    is_random = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        settings, channels = config.model.denoiser, config.channels
        self.conditioner = SingleFrameConditioner(config.model.conditioner, channels, settings.patch)
        width = self.conditioner.layout.width
        self.generator = Denoiser(settings, channels, width)
        self.discriminator = PatchDiscriminator(channels, width, settings.patch, settings.widths)

    def networks(self) -> Sequence[nn.Module]:
        return [self.generator]

    def loss(
        self, context: TargetContext, volume: Tensor, t: Tensor, eps: Tensor, counted: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        """The generator's loss and the discriminator's in one sum; each reaches the weights of its own network only.

        What does not count is no change in both volumes that are judged.
        """
        real, condition = self.target.encode(volume, context.reference), context.condition
        fake = self._generated(context)
        fake = fake if counted is None else fake * counted[..., None, None, None]
        judge, detached = self.discriminator, condition.detach()
        frozen = {name: p.detach() for name, p in judge.named_parameters()}
        fooled = F.softplus(-functional_call(judge, frozen, (fake, detached)))
        caught = F.softplus(judge(fake.detach(), detached)) + F.softplus(-judge(real, detached))
        return channel_mean((fake - real).abs(), counted) + ADVERSARIAL_WEIGHT * (fooled + caught).mean(dim=1)

    def draw(
        self, context: TargetContext, noise: SeededNoise, sampling: SamplingSettings
    ) -> Float[Tensor, "b c D H W"]:
        return self.target.decode(self._generated(context), context.reference)

    def network_calls(self, sampling: SamplingSettings) -> int:
        return 1

    def _generated(self, context: TargetContext) -> Float[Tensor, "b c D H W"]:
        level = torch.zeros_like(context.gap)
        return self.generator(torch.zeros_like(context.reference), level, context.condition).float()
