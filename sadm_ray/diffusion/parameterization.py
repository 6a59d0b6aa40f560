"""What a network may predict (x, ε or v), and the conversions between them.

With z = α x + σ ε and v = α ε − σ x (Salimans & Ho, Progressive Distillation, 2022), each of x, ε and v determines the
other two once z and λ are known.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from sadm_ray.diffusion.noise_schedule import alpha_sigma, per_sample

Parameterization = Literal["v", "x", "eps"]
Volume = Float[Tensor, "b c d h w"]


def diffuse(x: Volume, eps: Volume, log_snr: Float[Tensor, " b"]) -> Volume:
    """The forward process: z = α x + σ ε."""
    alpha, sigma = (per_sample(a, x) for a in alpha_sigma(log_snr))
    return alpha * x + sigma * eps


def to_x(predicted: Volume, kind: Parameterization, z: Volume, log_snr: Float[Tensor, " b"]) -> Volume:
    """The clean x̂ of a prediction of `kind`."""
    alpha, sigma = (per_sample(a, z) for a in alpha_sigma(log_snr))
    if kind == "x":
        return predicted
    if kind == "v":
        return alpha * z - sigma * predicted
    return (z - sigma * predicted) / alpha


def to_eps(x_hat: Volume, z: Volume, log_snr: Float[Tensor, " b"]) -> Volume:
    """The noise ε̂ that goes with x̂ at z."""
    alpha, sigma = (per_sample(a, z) for a in alpha_sigma(log_snr))
    return (z - alpha * x_hat) / sigma


def to_v(predicted: Volume, kind: Parameterization, z: Volume, log_snr: Float[Tensor, " b"]) -> Volume:
    """The velocity v̂ of a prediction of `kind`, in forms that stay finite at both ends of the schedule."""
    alpha, sigma = (per_sample(a, z) for a in alpha_sigma(log_snr))
    if kind == "v":
        return predicted
    if kind == "x":
        return (alpha * z - predicted) / sigma
    return (predicted - sigma * z) / alpha
