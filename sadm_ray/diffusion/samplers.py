"""Samplers: pure functions of a denoiser (z, λ) → x̂. They know nothing of networks, conditions or guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from sadm_ray.diffusion.guidance import Denoise, Volume
from sadm_ray.diffusion.prediction import to_eps
from sadm_ray.diffusion.schedule import alpha_sigma

Sampler = Literal["ancestral", "ddim"]


class Schedule(Protocol):
    """A noise schedule: λ as a falling function of t in [0, 1]."""

    def log_snr(self, t: Tensor) -> Tensor: ...


class SeededNoise:
    """Standard normal noise with a generator of its own for every sample of the batch.

    A sample then depends on its own seed only, not on its batch-mates. The numbers are drawn on the CPU, so that every
    kind of device sees the same ones.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device = device

    def __call__(self, shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """The next noise of every sample, each of `shape`."""
        rows = [torch.randn(tuple(shape), generator=generator) for generator in self._generators]
        return torch.stack(rows).to(self._device)


def ancestral_step(
    z: Volume, x_hat: Volume, log_snr_t: Tensor, log_snr_s: Tensor, eps: Volume, stochasticity: float
) -> Volume:
    """From t to s < t by the posterior q(z_s | z_t, x̂), its variance interpolated (paper, section 2; VDM).

    With r = exp(λ_t − λ_s): mean r (α_s/α_t) z + (1 − r) α_s x̂, and variance (σ̃²)^{1−v} (σ²_{t|s})^{v} between
    σ̃² = (1 − r) σ_s² and σ²_{t|s} = (1 − r) σ_t².
    """
    alpha_t, sigma_t = alpha_sigma(log_snr_t)
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    r = torch.exp(log_snr_t - log_snr_s)
    one_minus_r = -torch.expm1(log_snr_t - log_snr_s)  # 1 − r without cancellation when the step is small
    mean = r * (alpha_s / alpha_t) * z + one_minus_r * alpha_s * x_hat
    deviation = one_minus_r.sqrt() * sigma_s ** (1.0 - stochasticity) * sigma_t**stochasticity
    return mean + deviation * eps


def ddim_step(z: Volume, x_hat: Volume, log_snr_t: Tensor, log_snr_s: Tensor) -> Volume:
    """From t to s < t along the probability flow: z_s = α_s x̂ + σ_s ε̂ (Song et al., DDIM, 2021)."""
    alpha_s, sigma_s = alpha_sigma(log_snr_s)
    return alpha_s * x_hat + sigma_s * to_eps(x_hat, z, log_snr_t.expand(z.shape[0]))


@torch.no_grad()
def sample(
    denoise: Denoise,
    schedule: Schedule,
    noise: SeededNoise,
    shape: Sequence[int],
    *,
    sampler: Sampler = "ddim",
    num_steps: int = 10,
    stochasticity: float = 0.5,
    callback: Callable[[int, Volume], None] | None = None,
) -> Volume:
    """Draw x by `num_steps` evaluations of `denoise`, equally spaced in t.

    Args:
        denoise: (z, λ) → x̂.
        noise: gives the noise of every sample.
        shape: of one sample, c d h w.
        stochasticity: v of `ancestral_step`; DDIM has none.
        callback: called with the step and its x̂.

    Returns:
        x̂ of the last step: at t = 0 what is left of the noise is not worth another evaluation.
    """
    z = noise(shape)
    # In float64: 1 − r and the ends of the schedule lose digits in float32.
    log_snrs = schedule.log_snr(torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64)).to(z)
    x_hat = z
    for step in range(num_steps):
        log_snr_t, log_snr_s = log_snrs[step], log_snrs[step + 1]
        x_hat = denoise(z, log_snr_t.expand(z.shape[0]))
        if callback is not None:
            callback(step, x_hat)
        if step == num_steps - 1:
            break
        if sampler == "ddim":
            z = ddim_step(z, x_hat, log_snr_t, log_snr_s)
        else:
            z = ancestral_step(z, x_hat, log_snr_t, log_snr_s, noise(shape), stochasticity)
    return x_hat
