"""SADM: conditioner and denoiser composed with the diffusion process (Yoon et al., IPMI 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sadm_ray.config import SamplingSettings
from sadm_ray.diffusion.guidance import EVERYWHERE, Denoise, evaluations, guide
from sadm_ray.diffusion.loss import loss_weight, velocity_loss
from sadm_ray.diffusion.noise_schedule import Schedule
from sadm_ray.diffusion.parameterization import diffuse, to_v, to_x
from sadm_ray.diffusion.preconditioning import expected_loss, preconditioned_v, standardised
from sadm_ray.diffusion.samplers import Noise, SeededNoise, sample
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.denoiser import Denoiser
from sadm_ray.model.encoded_sequence import TargetContext
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.prior import Prior, prior_network_of, prior_of
from sadm_ray.model.prior_samples import spread_loss
from sadm_ray.model.single_frame_conditioner import SingleFrameConditioner


class Sadm(SequenceModel):
    """The diffusion model: kinds `sadm`, `sadm_paper` and `diffusion_only`, which differ in what conditions it.

    `sadm_paper` is conditioned on the conditioner's output alone; ours also on the reference's own voxels, and it
    starts from a prior. `diffusion_only` is conditioned on these voxels and the times, without the conditioner's
    attention.
    """

    is_guided = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        model, diffusion = config.model, config.diffusion
        if model.kind == "diffusion_only":
            self.conditioner = SingleFrameConditioner(model.conditioner, config.channels, model.denoiser.patch)
        else:
            self.conditioner = self._attending(0 if model.kind == "sadm_paper" else self.references)
        layout = self.conditioner.layout
        self.prior_network = None if model.prior is None else prior_network_of(config, layout, model.motion_modes)
        channels = layout.width + (Prior.width(layout) if self.prior_network is not None else 0)
        self.denoiser = Denoiser(model.denoiser, config.channels, channels)
        self.schedule = Schedule(diffusion.schedule, diffusion.log_snr_min, diffusion.log_snr_max, diffusion.shift)

    def networks(self) -> Sequence[nn.Module]:
        return [self.denoiser] if self.prior_network is None else [self.denoiser, self.prior_network.unet]

    def noise_size(self, volume: Sequence[int]) -> tuple[int, int, int, int]:
        channels, d, h, w = super().noise_size(volume)
        return channels if self.spread is None else self.spread.noise_channels((d, h, w)), d, h, w

    def loss(
        self, context: TargetContext, volume: Tensor, t: Tensor, eps: Tensor, counted: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        x = self.target.encode(volume, context.reference)
        # The reference (its time warp) is trained by its own loss and by the prior's: the diffusion takes x as fixed.
        fixed, log_snr, process = x.detach(), self.schedule.log_snr(t), self.config.diffusion
        prior = None if self.prior_network is None else prior_of(self.prior_network, context, self.target)
        spread: Tensor | float = 0.0
        if prior is not None and prior.spread is not None:
            samples = [prior.spread.sample(*each) for each in prior.spread.noises(eps)]
            spread, eps = spread_loss(fixed, samples, counted), prior.as_noise(samples[0])
        z, condition = diffuse(fixed, eps, log_snr), self._with_prior(context.condition, prior)
        loss = velocity_loss(self._velocity(z, log_snr, condition), fixed, eps, log_snr, counted)
        loss = loss * loss_weight(process.weighting, log_snr, process.weighting_parameter)
        if prior is None:
            return loss
        variance = prior.variance_of(counted)
        return loss / expected_loss(variance, log_snr).sqrt() + prior.loss(x, counted) + spread / variance.sqrt()

    def draw(
        self, context: TargetContext, noise: SeededNoise, sampling: SamplingSettings
    ) -> Float[Tensor, "b c D H W"]:
        prior = self._guided_prior(context, sampling)
        source: Noise = noise if prior is None else prior.noise_from(noise)
        denoise = self._guided(context, sampling) if prior is None else self._correcting(context, prior)
        x = sample(
            denoise,
            self.schedule.steps(sampling.num_steps, sampling.spacing),
            source,
            context.reference.shape[1:],
            sampler=sampling.sampler,
            stochasticity=sampling.stochasticity,
            gaussian=None if prior is None else (prior.mean, prior.log_variance),
        )
        return self.target.decode(x, context.reference)

    def estimate(
        self, context: TargetContext, noise: SeededNoise, sampling: SamplingSettings
    ) -> Float[Tensor, "b c D H W"]:
        """The prior's mean."""
        prior = self._guided_prior(context, sampling)
        if prior is None:
            return super().estimate(context, noise, sampling)
        return self.target.decode(prior.mean, context.reference)

    def moved_fields(
        self, context: TargetContext, noise: SeededNoise | None, sampling: SamplingSettings
    ) -> Float[Tensor, "b s 3 D H W"] | None:
        prior = self._guided_prior(context, sampling)
        return None if prior is None or prior.spread is None else prior.spread.moved_fields(noise)

    def network_calls(self, sampling: SamplingSettings) -> int:
        if self.prior_network is not None:  # which replaces the first evaluation
            return sampling.num_steps
        evaluated = self.schedule.steps(sampling.num_steps, sampling.spacing)[:-1]
        return evaluations(evaluated, sampling.guidance_scale, sampling.guidance_interval or EVERYWHERE)

    def varies(self, sampling: SamplingSettings) -> bool:
        """Samples differ unless the only step is the prior's mean."""
        return self.prior_network is None or sampling.sampler == "euler" or sampling.num_steps > 1

    def _guided(self, context: TargetContext, sampling: SamplingSettings) -> Denoise:
        """The denoiser of z alone, guided; without a prior."""
        condition, interval = context.condition, sampling.guidance_interval or EVERYWHERE
        null = torch.zeros_like(condition)
        return guide(self._denoise, condition, null, sampling.guidance_scale, interval, split=sampling.guidance_split)

    def _guided_prior(self, context: TargetContext, sampling: SamplingSettings) -> Prior | None:
        """The prior, guided: without the sequence it is no change, x = 0; None without one.

        The denoiser corrects it. Guiding the corrections as well would apply the guidance twice.
        """
        if self.prior_network is None:
            return None
        interval = sampling.guidance_interval or EVERYWHERE
        is_guided = interval[0] <= self.schedule.noisiest <= interval[1]
        strength = 1.0 + sampling.guidance_scale if is_guided else 1.0
        return prior_of(self.prior_network, context, self.target, strength, self.recalibration)

    def _correcting(self, context: TargetContext, prior: Prior) -> Denoise:
        """The denoiser of z alone, which corrects the prior."""
        condition = self._with_prior(context.condition, prior)
        return lambda z, log_snr: self._denoise(z, log_snr, condition)

    def _with_prior(self, condition: Float[Tensor, "b k e f g"], prior: Prior | None) -> Float[Tensor, "b n e f g"]:
        """The denoiser's condition: the sequence's, then the prior as channels, in full precision to be read back."""
        if prior is None:
            return condition
        return torch.cat([condition, prior.on_grid(self.denoiser.patch).detach()], dim=1)

    def _velocity(
        self, z: Float[Tensor, "b c d h w"], log_snr: Float[Tensor, " b"], condition: Float[Tensor, "b n e f g"]
    ) -> Float[Tensor, "b c d h w"]:
        if self.prior_network is None:
            return to_v(self.denoiser(z, log_snr, condition).float(), self.config.diffusion.prediction, z, log_snr)
        prior = self._prior_in(condition)
        v_net = self.denoiser(standardised(z, prior.mean, prior.log_variance, log_snr), log_snr, condition).float()
        return preconditioned_v(v_net, prior.mean, prior.log_variance, z, log_snr)

    def _denoise(
        self, z: Float[Tensor, "b c d h w"], log_snr: float, condition: Float[Tensor, "b n e f g"]
    ) -> Float[Tensor, "b c d h w"]:
        """x̂. At pure noise z holds nothing of x: the prior's mean is the best estimate, a denoiser only adds error."""
        if self.prior_network is not None and log_snr <= self.schedule.noisiest + 1e-3:
            return self._prior_in(condition).mean
        levels = torch.full((len(z),), log_snr, device=z.device)
        return to_x(self._velocity(z, levels, condition), "v", z, levels)

    def _prior_in(self, condition: Float[Tensor, "b n e f g"]) -> Prior:
        return Prior.from_grid(condition[:, self.conditioner.layout.width :], self.denoiser.patch)
