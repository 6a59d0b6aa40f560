"""SADM: conditioner and denoiser composed with the diffusion process (Yoon et al., IPMI 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sadm_ray.config import SamplingSettings
from sadm_ray.diffusion.guidance import EVERYWHERE, evaluations, guide
from sadm_ray.diffusion.objective import loss_weight, velocity_loss
from sadm_ray.diffusion.posterior import gaussian_v
from sadm_ray.diffusion.prediction import diffuse, to_v, to_x
from sadm_ray.diffusion.samplers import SeededNoise, sample
from sadm_ray.diffusion.schedule import Schedule
from sadm_ray.model.conditioner import Conditioner
from sadm_ray.model.config import ModelConfig
from sadm_ray.model.context import Given
from sadm_ray.model.denoiser import Denoiser
from sadm_ray.model.motion import warp
from sadm_ray.model.sequence_model import SequenceModel
from sadm_ray.model.source import SourceConditioner


class Sadm(SequenceModel):
    """The diffusion model: kinds `sadm`, `sadm_paper` and `diffusion_only`, which differ in what conditions it.

    `sadm_paper` is told only what the conditioner makes of the sequence; ours is also handed the nearest observed
    frame's own voxels. `diffusion_only` is handed these and the times, and does without the conditioner's attention.
    """

    is_guided = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        model, diffusion = config.model, config.diffusion
        if model.kind == "diffusion_only":
            self.conditioner = SourceConditioner(model.conditioner, config.channels, model.denoiser.patch)
        else:
            voxels = model.kind != "sadm_paper"
            self.conditioner = Conditioner(
                model.conditioner, config.channels, model.denoiser.patch, model.covariates, voxels=voxels
            )
        self._has_motion, self._has_variance = model.target == "motion", model.voxel_variance
        outputs = config.channels * (1 + self._has_variance) + 3 * self._has_motion
        self.denoiser = Denoiser(model.denoiser, config.channels, self.conditioner.channels, outputs)
        self.schedule = Schedule(diffusion.schedule, diffusion.log_snr_min, diffusion.log_snr_max, diffusion.shift)

    def networks(self) -> Sequence[nn.Module]:
        return [self.denoiser]

    def loss(self, given: Given, volume: Tensor, t: Tensor, eps: Tensor) -> Float[Tensor, " b"]:
        x = self.target.encode(volume, given.reference)
        log_snr = self.schedule.log_snr(t)
        z = diffuse(x, eps, log_snr)
        loss = velocity_loss(self._velocity(z, log_snr, given.condition), x, eps, log_snr)
        process = self.config.diffusion
        return loss * loss_weight(process.weighting, log_snr, process.weighting_parameter)

    def draw(self, given: Given, noise: SeededNoise, sampling: SamplingSettings) -> Float[Tensor, "b c D H W"]:
        denoise = guide(
            self._denoise,
            given.condition,
            torch.zeros_like(given.condition),
            sampling.guidance_scale,
            sampling.guidance_interval or EVERYWHERE,
            split=sampling.guidance_split,
        )
        x = sample(
            denoise,
            self.schedule.steps(sampling.num_steps, sampling.spacing),
            noise,
            given.reference.shape[1:],
            sampler=sampling.sampler,
            stochasticity=sampling.stochasticity,
        )
        return self.target.decode(x, given.reference)

    def network_calls(self, sampling: SamplingSettings) -> int:
        evaluated = self.schedule.steps(sampling.num_steps, sampling.spacing)[:-1]
        return evaluations(evaluated, sampling.guidance_scale, sampling.guidance_interval or EVERYWHERE)

    def _velocity(self, z: Tensor, log_snr: Tensor, condition: Tensor) -> Float[Tensor, "b c d h w"]:
        said = self.denoiser(z, log_snr, condition).float()
        kind = self.config.diffusion.prediction
        if kind != "v":
            return to_v(said, kind, z, log_snr)
        sizes = [self.config.channels * part for part in (1, self._has_variance)] + [3 * self._has_motion]
        v_net, log_variance, field = said.split(sizes, dim=1)
        mean: Tensor | float = 0.0
        if self._has_motion:
            reference = self.conditioner.reference(condition).float()
            mean = (warp(reference, field) - reference) / self.target.scale
        return gaussian_v(v_net, mean, log_variance if self._has_variance else None, z, log_snr)

    def _denoise(self, z: Tensor, log_snr: float, condition: Tensor) -> Float[Tensor, "b c d h w"]:
        levels = torch.full((len(z),), log_snr, device=z.device)
        return to_x(self._velocity(z, levels, condition), "v", z, levels)
