"""Samplers: pure functions of a denoiser (z, λ) → x̂. They do not depend on networks, conditions or guidance.

The coefficients are Python floats, hence float64, and need no synchronisation with a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sadm_ray.diffusion.guidance import Denoise, Volume

Sampler = Literal["ancestral", "ddim", "dpm++", "euler"]
Callback = Callable[[int, Volume], None]
Gaussian = tuple[Volume, Volume]
"""Mean and log variance of every voxel of x."""
Noise = Callable[[Sequence[int]], Volume]
"""The next noise of every sample, of a shape c d h w."""


class SeededNoise:
    """Normal noise with a generator of its own for every sample of the batch.

    A sample then depends on its own seed only, not on its batch-mates. The numbers are drawn on the CPU, so that every
    kind of device sees the same ones.

    Args:
        temperature: its deviation.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu", temperature: float = 1.0) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device, self._temperature = device, temperature
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """The next noise of every sample, each of `shape`."""
        rows = [torch.randn(tuple(shape), generator=generator) for generator in self._generators]
        return self._temperature * torch.stack(rows).to(self._device)

    def kept(self, shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """Noise of this shape that stays the same for all frames of a sample."""
        if tuple(shape) not in self._kept:
            self._kept[tuple(shape)] = self(shape)
        return self._kept[tuple(shape)]


def _alpha_sigma(log_snr: float) -> tuple[float, float]:
    # Written so that neither exponential can overflow.
    if log_snr >= 0:
        small = math.exp(-log_snr)
        return math.sqrt(1.0 / (1.0 + small)), math.sqrt(small / (1.0 + small))
    sigma, alpha = _alpha_sigma(-log_snr)
    return alpha, sigma


def ancestral_step(
    z: Volume, x_hat: Volume, log_snr_t: float, log_snr_s: float, eps: Volume, stochasticity: float
) -> Volume:
    """From t to s < t by the posterior q(z_s | z_t, x̂), its variance interpolated (paper, section 2; VDM).

    With r = exp(λ_t − λ_s): mean r (α_s/α_t) z + (1 − r) α_s x̂, and variance (σ̃²)^{1−v} (σ²_{t|s})^{v} between
    σ̃² = (1 − r) σ_s² and σ²_{t|s} = (1 − r) σ_t², v the stochasticity.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = _alpha_sigma(log_snr_t), _alpha_sigma(log_snr_s)
    r, one_minus_r = math.exp(log_snr_t - log_snr_s), -math.expm1(log_snr_t - log_snr_s)
    deviation = math.sqrt(one_minus_r) * sigma_s ** (1.0 - stochasticity) * sigma_t**stochasticity
    return r * (alpha_s / alpha_t) * z + one_minus_r * alpha_s * x_hat + deviation * eps


def ddim_step(z: Volume, x_hat: Volume, log_snr_t: float, log_snr_s: float) -> Volume:
    """From t to s < t along the probability flow, x̂ held still: z_s = α_s x̂ + σ_s ε̂ (Song et al., DDIM, 2021)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = _alpha_sigma(log_snr_t), _alpha_sigma(log_snr_s)
    ratio = sigma_s / sigma_t
    return ratio * z + (alpha_s - ratio * alpha_t) * x_hat


def euler_step(z: Volume, x_hat: Volume, log_snr_t: float, log_snr_s: float | None, gaussian: Gaussian) -> Volume:
    """From t to s < t along the probability flow, exact for an x that is Gaussian with this mean and variance.

    Let μ and s² be that mean and variance, and u = (z − α μ)/√(α² s² + σ²), z standardised. With the angle
    θ = arctan(σ/(α s)) the flow is du/dθ = v, where v is the correction to the Gaussian's own x̂ in
    `sadm_ray.diffusion.preconditioning`; one step takes v as constant. Without correction u does not change: the noise
    becomes a draw of the Gaussian, however few the steps are. For μ = 0, s = 1 it is the flow of TrigFlow (Lu & Song,
    Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models, 2025).

    Args:
        log_snr_s: λ at s; none: no noise is left.
        gaussian: μ and log s² of each voxel.
    """
    mean, log_variance = gaussian
    deviation = torch.exp(0.5 * log_variance)
    alpha, sigma = _alpha_sigma(log_snr_t)
    total = torch.sqrt((alpha * deviation) ** 2 + sigma**2)
    u = (z - alpha * mean) / total
    v = (mean + (alpha * deviation**2 / total) * u - x_hat) * total / (sigma * deviation)
    alpha_s, sigma_s = (1.0, 0.0) if log_snr_s is None else _alpha_sigma(log_snr_s)
    turn = torch.atan2(deviation.new_tensor(sigma), alpha * deviation) - torch.atan2(
        deviation.new_tensor(sigma_s), alpha_s * deviation
    )
    return alpha_s * mean + torch.sqrt((alpha_s * deviation) ** 2 + sigma_s**2) * (u - turn * v)


def extrapolate(x_hat: Volume, before: Volume, log_snr: Sequence[float]) -> Volume:
    """x̂ in the middle of the next step, from this evaluation and the one before it: DPM-Solver++(2M).

    A DDIM step with this x̂ is the second-order multistep solver of Lu et al. (2022), algorithm 2.

    Args:
        log_snr: λ at the evaluation before, at this one, and at the end of the step.
    """
    ratio = (log_snr[1] - log_snr[0]) / (log_snr[2] - log_snr[1])
    return x_hat + (x_hat - before) / (2.0 * ratio)


@torch.no_grad()
def integrate(
    denoise: Denoise,
    log_snrs: Sequence[float],
    z: Volume,
    noise: Noise | None = None,
    *,
    sampler: Sampler = "ddim",
    stochasticity: float = 0.5,
    gaussian: Gaussian | None = None,
    callback: Callback | None = None,
) -> Volume:
    """Bring z from the first of the noise levels to the last, one evaluation of `denoise` a step.

    Args:
        log_snrs: λ of the nodes, rising.
        noise: of every sample; only the ancestral sampler draws from it.
        callback: called with the step and its x̂.

    Returns:
        z at the last noise level.
    """
    before: Volume | None = None
    for step, (log_snr_t, log_snr_s) in enumerate(pairwise(log_snrs)):
        x_hat = denoise(z, log_snr_t)
        if callback is not None:
            callback(step, x_hat)
        if sampler == "ancestral":
            if noise is None:
                raise ValueError("the ancestral sampler needs noise")
            z = ancestral_step(z, x_hat, log_snr_t, log_snr_s, noise(z.shape[1:]), stochasticity)
        elif gaussian is not None and sampler == "euler":
            z = euler_step(z, x_hat, log_snr_t, log_snr_s, gaussian)
        elif sampler == "dpm++" and before is not None:
            middle = extrapolate(x_hat, before, log_snrs[step - 1 : step + 2])
            z = ddim_step(z, middle, log_snr_t, log_snr_s)
        else:
            z = ddim_step(z, x_hat, log_snr_t, log_snr_s)
        before = x_hat
    return z


@torch.no_grad()
def sample(
    denoise: Denoise,
    log_snrs: Sequence[float],
    noise: Noise,
    shape: Sequence[int],
    *,
    sampler: Sampler = "ddim",
    stochasticity: float = 0.5,
    gaussian: Gaussian | None = None,
    callback: Callback | None = None,
) -> Volume:
    """Draw x from noise, with as many evaluations of `denoise` as there are steps between the nodes.

    Args:
        log_snrs: λ of the nodes (`Schedule.steps`), rising.
        shape: of one sample, c d h w.
        stochasticity: v of `ancestral_step`; the other samplers have none.
        gaussian: the prior of x, mean and log variance; none: none is known.

    Returns:
        x̂ at the last node but one: the noise that is left between it and the last is taken off in one go. With `euler`
        and a prior the end of its last step, where no noise is left.
    """
    z = noise(shape)
    if gaussian is not None:  # the noisiest level is one of little signal, not of none
        alpha, sigma = _alpha_sigma(log_snrs[0])
        mean, variance = gaussian[0], gaussian[1].exp()
        z = alpha * mean + torch.sqrt(alpha**2 * variance + sigma**2) * z
    z = integrate(
        denoise, log_snrs[:-1], z, noise, sampler=sampler, stochasticity=stochasticity, gaussian=gaussian,
        callback=callback,
    )  # fmt: skip
    x_hat = denoise(z, log_snrs[-2])
    if callback is not None:
        callback(len(log_snrs) - 2, x_hat)
    if gaussian is None or sampler != "euler":
        return x_hat
    return euler_step(z, x_hat, log_snrs[-2], None, gaussian)
