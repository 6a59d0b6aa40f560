"""Flow matching in voxel space, from the nearest observed frame to the target.

After Temporal Flow Matching (2025), which starts at the scans that are known rather than at noise. There the sequence
enters as channels, one a slot; here through our conditioner, so that there may be any number of visits at any times.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sadm_ray.config import SamplingSettings
from sadm_ray.diffusion.loss import channel_mean
from sadm_ray.diffusion.samplers import SeededNoise
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.denoiser import Denoiser
from sadm_ray.model.encoded_sequence import TargetContext
from sadm_ray.model.model_config import ModelConfig


class FlowMatching(SequenceModel):
    """The velocity of a straight way: z_s = s x, with x the scaled difference of target and reference, and v = x.

    Drawn by `num_steps` steps of Euler from s = 0 to 1. Nothing is random: every sample is the same.
    """

    is_random = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        model = config.model
        self.conditioner = self._attending(self.references)
        self.denoiser = Denoiser(model.denoiser, config.channels, self.conditioner.layout.width)

    def networks(self) -> Sequence[nn.Module]:
        return [self.denoiser]

    def loss(
        self, context: TargetContext, volume: Tensor, t: Tensor, eps: Tensor, counted: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        x = self.target.encode(volume, context.reference)
        z = t[:, None, None, None, None] * x
        return channel_mean((self._velocity(z, t, context.condition) - x).square(), counted)

    def draw(
        self, context: TargetContext, noise: SeededNoise, sampling: SamplingSettings
    ) -> Float[Tensor, "b c D H W"]:
        z = torch.zeros_like(context.reference)
        for step in range(sampling.num_steps):
            s = torch.full_like(context.gap, step / sampling.num_steps)
            z = z + self._velocity(z, s, context.condition) / sampling.num_steps
        return self.target.decode(z, context.reference)

    def network_calls(self, sampling: SamplingSettings) -> int:
        return sampling.num_steps

    def _velocity(self, z: Tensor, s: Float[Tensor, " b"], condition: Tensor) -> Float[Tensor, "b c D H W"]:
        level = 16.0 * s - 8.0  # in the role of λ, which the denoiser scales to about ±1
        return self.denoiser(z, level, condition).float()
