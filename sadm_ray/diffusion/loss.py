"""The training objective: the squared error of v̂, weighted by the noise level."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sadm_ray.diffusion.noise_schedule import alpha_sigma, per_sample
from sadm_ray.diffusion.parameterization import Volume

Weighting = Literal["v", "min-snr", "sigmoid"]


def channel_mean(errors: Volume, counted: Bool[Tensor, "b c"] | None = None) -> Float[Tensor, " b"]:
    """The mean over the voxels of each sample.

    Args:
        counted: the channels that count; none: all. A sample without any has a mean of 0.
    """
    if counted is None:
        return errors.flatten(1).mean(dim=1)
    return (errors.flatten(2).mean(dim=2) * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def velocity_loss(
    v_hat: Volume, x: Volume, eps: Volume, log_snr: Float[Tensor, " b"], counted: Bool[Tensor, "b c"] | None = None
) -> Float[Tensor, " b"]:
    """‖v − v̂‖² of each sample, averaged over the voxels that count (`channel_mean`), with v = α ε − σ x.

    Well scaled at every noise level, whatever the network predicts: the error of x is σ times that of v, the error of ε
    is α times that (Salimans & Ho, 2022).
    """
    alpha, sigma = (per_sample(a, x) for a in alpha_sigma(log_snr))
    return channel_mean((alpha * eps - sigma * x - v_hat).square(), counted)


def loss_weight(kind: Weighting, log_snr: Float[Tensor, " b"], parameter: float) -> Float[Tensor, " b"]:
    """What `velocity_loss` is multiplied by at each noise level.

    v: 1, that is SNR + 1 on the error of x. min-snr: min(SNR, γ) on the error of x (Hang et al., 2023; γ = 5). sigmoid:
    sigmoid(b − λ) on the error of ε (Kingma & Gao, 2023; Hoogeboom et al., 2024; b = −3 to 3).

    Args:
        parameter: γ or b.
    """
    if kind == "v":
        return torch.ones_like(log_snr)
    if kind == "min-snr":
        return log_snr.exp().clamp(max=parameter) * torch.sigmoid(-log_snr)
    return torch.sigmoid(parameter - log_snr) * torch.sigmoid(log_snr)
