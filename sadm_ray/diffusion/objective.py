"""The training objective: the mean squared error of v̂ over stratified noise levels, with condition dropout.

In v the loss is well scaled at every noise level, whatever the network predicts; it weighs the error of x̂ by
SNR + 1 (Salimans & Ho, 2022).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sadm_ray.diffusion.prediction import Volume
from sadm_ray.diffusion.schedule import alpha_sigma, per_sample


def stratified_times(batch: int, generator: torch.Generator, device: torch.device) -> Float[Tensor, " b"]:
    """One t in each of `batch` equal parts of [0, 1]: less variance than independent draws (VDM, appendix I)."""
    offset = torch.rand((), generator=generator, device=generator.device)
    even = torch.arange(batch, device=generator.device) / batch
    return ((even + offset) % 1.0).to(device)


def dropped(batch: int, probability: float, generator: torch.Generator, device: torch.device) -> Bool[Tensor, " b"]:
    """Which samples train the unconditional model: their condition is replaced by the null one."""
    return (torch.rand(batch, generator=generator, device=generator.device) < probability).to(device)


def velocity_loss(v_hat: Volume, x: Volume, eps: Volume, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """‖v − v̂‖² of each sample, averaged over its voxels, with v = α ε − σ x."""
    alpha, sigma = (per_sample(a, x) for a in alpha_sigma(log_snr))
    return (alpha * eps - sigma * x - v_hat).square().flatten(1).mean(dim=1)
