"""Noise schedules on the one clock of the process: the log signal-to-noise ratio λ.

λ falls from `log_snr(0)` (nearly clean) to `log_snr(1)` (nearly noise), and everything else follows from it:
α² = sigmoid(λ), σ² = sigmoid(−λ), so that α² + σ² = 1 (Kingma et al., Variational Diffusion Models, 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def alpha_sigma(log_snr: Float[Tensor, "*n"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Coefficients of signal and noise: z = α x + σ ε (variance preserving)."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def per_sample(values: Float[Tensor, " b"], like: Tensor) -> Tensor:
    """`b` values shaped so that they multiply `like` (b …) sample by sample."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


@dataclass(frozen=True)
class CosineSchedule:
    """λ(t) = −2 log tan(π t / 2) + shift, with t rescaled so that the ends are finite (VDM++, Kingma & Gao, 2023).

    Args:
        log_snr_min: λ at t = 1, before the shift.
        log_snr_max: λ at t = 0, before the shift.
        shift: added to λ; negative for more noise, as larger volumes want (Hoogeboom et al., simple diffusion, 2023).
    """

    log_snr_min: float = -12.0
    log_snr_max: float = 12.0
    shift: float = 0.0

    @property
    def _angles(self) -> tuple[float, float]:
        return math.atan(math.exp(-0.5 * self.log_snr_max)), math.atan(math.exp(-0.5 * self.log_snr_min))

    def log_snr(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """λ at times t in [0, 1]."""
        first, last = self._angles
        return -2.0 * torch.log(torch.tan(first + t * (last - first))) + self.shift

    def time(self, log_snr: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The inverse of `log_snr`."""
        first, last = self._angles
        return (torch.atan(torch.exp(-0.5 * (log_snr - self.shift))) - first) / (last - first)
