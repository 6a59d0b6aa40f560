"""SADM: conditioner and denoiser composed with the diffusion process (Yoon et al., IPMI 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sadm_ray.config import SamplingSettings
from sadm_ray.diffusion.guidance import EVERYWHERE, Denoise, evaluations, guide
from sadm_ray.diffusion.objective import loss_weight, velocity_loss
from sadm_ray.diffusion.posterior import expected_loss, gaussian_v, standardised
from sadm_ray.diffusion.prediction import diffuse, to_v, to_x
from sadm_ray.diffusion.samplers import SeededNoise, sample
from sadm_ray.diffusion.schedule import Schedule
from sadm_ray.model.config import ModelConfig
from sadm_ray.model.context import Given
from sadm_ray.model.denoiser import Denoiser
from sadm_ray.model.guess import TOGETHER, Guess, guess_of, guesser_of
from sadm_ray.model.sequence_model import SequenceModel
from sadm_ray.model.source import SourceConditioner


class Sadm(SequenceModel):
    """The diffusion model: kinds `sadm`, `sadm_paper` and `diffusion_only`, which differ in what conditions it.

    `sadm_paper` is told only what the conditioner makes of the sequence; ours is also handed the reference's own
    voxels and guesses first what will come. `diffusion_only` is handed these voxels and the times, and does without the
    conditioner's attention.
    """

    is_guided = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        model, diffusion = config.model, config.diffusion
        if model.kind == "diffusion_only":
            self.conditioner = SourceConditioner(model.conditioner, config.channels, model.denoiser.patch)
        else:
            self.conditioner = self._attending(0 if model.kind == "sadm_paper" else self.sides)
        layout = self.conditioner.layout
        self.guesser = None if model.guess is None else guesser_of(config, layout)
        told = layout.width + (Guess.width(layout) if self.guesser is not None else 0)
        self.denoiser = Denoiser(model.denoiser, config.channels, told)
        self.schedule = Schedule(diffusion.schedule, diffusion.log_snr_min, diffusion.log_snr_max, diffusion.shift)

    def networks(self) -> Sequence[nn.Module]:
        return [self.denoiser] if self.guesser is None else [self.denoiser, self.guesser.unet]

    def loss(self, given: Given, volume: Tensor, t: Tensor, eps: Tensor) -> Float[Tensor, " b"]:
        x = self.target.encode(volume, given.reference)
        log_snr, process = self.schedule.log_snr(t), self.config.diffusion
        # What is learned of the reference is learned by its own loss and by the guess: the diffusion takes x as it is.
        fixed = x.detach()
        z = diffuse(fixed, eps, log_snr)
        guess = None if self.guesser is None else guess_of(self.guesser, given, self.target)
        told = self._told(given.condition, guess)
        loss = velocity_loss(self._velocity(z, log_snr, told), fixed, eps, log_snr)
        loss = loss * loss_weight(process.weighting, log_snr, process.weighting_parameter)
        if guess is None:
            return loss
        return loss / expected_loss(guess.variance, log_snr).sqrt() + guess.loss(x)

    def draw(self, given: Given, noise: SeededNoise, sampling: SamplingSettings) -> Float[Tensor, "b c D H W"]:
        x = sample(
            self._guided(given, sampling),
            self.schedule.steps(sampling.num_steps, sampling.spacing),
            noise,
            given.reference.shape[1:],
            sampler=sampling.sampler,
            stochasticity=sampling.stochasticity,
        )
        return self.target.decode(x, given.reference)

    def network_calls(self, sampling: SamplingSettings) -> int:
        if self.guesser is not None:  # which stands for the first evaluation
            return sampling.num_steps
        evaluated = self.schedule.steps(sampling.num_steps, sampling.spacing)[:-1]
        return evaluations(evaluated, sampling.guidance_scale, sampling.guidance_interval or EVERYWHERE)

    def varies(self, sampling: SamplingSettings) -> bool:
        """Unless the one step is the guess's."""
        return self.guesser is None or sampling.num_steps > 1

    def _guided(self, given: Given, sampling: SamplingSettings) -> Denoise:
        """The denoiser of z alone.

        Where there is a guess, that is what is guided, and the denoiser corrects it: without the sequence the guess is
        that nothing changes, x = 0. Guiding the corrections as well would take what is left out of the guess twice.
        """
        condition, scale, interval = given.condition, sampling.guidance_scale, sampling.guidance_interval or EVERYWHERE
        if self.guesser is None:
            null = torch.zeros_like(condition)
            return guide(self._denoise, condition, null, scale, interval, split=sampling.guidance_split)
        is_guided = interval[0] <= self.schedule.noisiest <= interval[1]
        guess = guess_of(self.guesser, given, self.target, 1.0 + scale if is_guided else 1.0, TOGETHER)
        told = self._told(condition, guess)
        return lambda z, log_snr: self._denoise(z, log_snr, told)

    def _told(self, condition: Float[Tensor, "b k e f g"], guess: Guess | None) -> Float[Tensor, "b n e f g"]:
        """What the denoiser is told: the condition, and behind it the guess, in full precision: it is read again."""
        if guess is None:
            return condition
        return torch.cat([condition, guess.on_grid(self.denoiser.patch).detach()], dim=1)

    def _velocity(
        self, z: Float[Tensor, "b c d h w"], log_snr: Float[Tensor, " b"], told: Float[Tensor, "b n e f g"]
    ) -> Float[Tensor, "b c d h w"]:
        if self.guesser is None:
            return to_v(self.denoiser(z, log_snr, told).float(), self.config.diffusion.prediction, z, log_snr)
        guess = self._guess_in(told)
        v_net = self.denoiser(standardised(z, guess.mean, guess.log_variance, log_snr), log_snr, told).float()
        return gaussian_v(v_net, guess.mean, guess.log_variance, z, log_snr)

    def _denoise(
        self, z: Float[Tensor, "b c d h w"], log_snr: float, told: Float[Tensor, "b n e f g"]
    ) -> Float[Tensor, "b c d h w"]:
        """x̂. At pure noise z says nothing of x: the guess is all there is to expect, the denoiser only adds error."""
        if self.guesser is not None and log_snr <= self.schedule.noisiest + 1e-3:
            return self._guess_in(told).mean
        levels = torch.full((len(z),), log_snr, device=z.device)
        return to_x(self._velocity(z, levels, told), "v", z, levels)

    def _guess_in(self, told: Float[Tensor, "b n e f g"]) -> Guess:
        return Guess.from_grid(told[:, self.conditioner.layout.width :], self.denoiser.patch)
