"""Noise schedules in terms of the log signal-to-noise ratio λ.

λ falls from `log_snr(0)` (nearly clean) to `log_snr(1)` (nearly noise), and everything else follows from it:
α² = sigmoid(λ), σ² = sigmoid(−λ), so that α² + σ² = 1 (Kingma et al., Variational Diffusion Models, 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["cosine", "linear", "sigmoid"]
Spacing = Literal["time", "log_snr", "karras"]
Values = Float[Tensor, "*n"]

BETA = (0.1, 20.0)  # first and last rate of the linear-β process (Song et al., 2021)
SIGMOID = (-3.0, 3.0, 1.0)  # start, end and temperature of the sigmoid schedule (Jabri et al., 2022)


def alpha_sigma(log_snr: Values) -> tuple[Values, Values]:
    """Coefficients of signal and noise: z = α x + σ ε (variance preserving)."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def per_sample(values: Float[Tensor, " b"], like: Tensor) -> Tensor:
    """`b` values shaped so that they multiply `like` (b …) sample by sample."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _cosine(u: Values) -> Values:
    return -2.0 * torch.log(torch.tan(0.5 * math.pi * u))


def _cosine_inverse(log_snr: Values) -> Values:
    return torch.atan(torch.exp(-0.5 * log_snr)) / (0.5 * math.pi)


def _linear(u: Values) -> Values:
    total = BETA[0] * u + 0.5 * (BETA[1] - BETA[0]) * u**2  # the integral of β; α² = exp(−total)
    return -torch.log(torch.expm1(total))


def _linear_inverse(log_snr: Values) -> Values:
    total = F.softplus(-log_snr)
    # The root of the quadratic in the form that does not cancel when `total` is small.
    return 2.0 * total / (BETA[0] + torch.sqrt(BETA[0] ** 2 + 2.0 * (BETA[1] - BETA[0]) * total))


def _sigmoid_ends() -> tuple[float, float]:
    start, end, temperature = SIGMOID
    return 1.0 / (1.0 + math.exp(-start / temperature)), 1.0 / (1.0 + math.exp(-end / temperature))


def _sigmoid(u: Values) -> Values:
    start, end, temperature = SIGMOID
    low, high = _sigmoid_ends()
    at = torch.sigmoid((start + u * (end - start)) / temperature)
    return torch.log(high - at) - torch.log(at - low)


def _sigmoid_inverse(log_snr: Values) -> Values:
    start, end, temperature = SIGMOID
    low, high = _sigmoid_ends()
    at = low * torch.sigmoid(log_snr) + high * torch.sigmoid(-log_snr)
    return (temperature * torch.logit(at) - start) / (end - start)


_BASES = {"cosine": (_cosine, _cosine_inverse), "linear": (_linear, _linear_inverse)}
_BASES["sigmoid"] = (_sigmoid, _sigmoid_inverse)


@dataclass(frozen=True)
class Schedule:
    """λ(t) of a base schedule, its time rescaled so that it runs from `log_snr_max` to `log_snr_min`, plus the shift.

    cosine: −2 log tan(π u/2) (Nichol & Dhariwal, 2021, in continuous time); linear: β rises linearly (Ho et al., 2020);
    sigmoid: α² falls as a sigmoid (Jabri et al., 2022). Cutting the ends by rescaling time is VDM++'s (Kingma & Gao,
    2023).

    Args:
        log_snr_min: λ at t = 1, before the shift.
        log_snr_max: λ at t = 0, before the shift.
        shift: added to λ; negative for more noise, as larger volumes need (Hoogeboom et al., simple diffusion, 2023).
    """

    kind: Kind = "cosine"
    log_snr_min: float = -12.0
    log_snr_max: float = 12.0
    shift: float = 0.0

    @property
    def noisiest(self) -> float:
        """λ at t = 1, where every sampler begins."""
        return self.log_snr_min + self.shift

    def _ends(self) -> tuple[float, float]:
        ends = torch.tensor([self.log_snr_max, self.log_snr_min], dtype=torch.float64)
        first, last = _BASES[self.kind][1](ends).tolist()
        return first, last

    def log_snr(self, t: Values) -> Values:
        """λ at times t in [0, 1]."""
        first, last = self._ends()
        base = _BASES[self.kind][0](torch.lerp(torch.full_like(t, first), torch.full_like(t, last), t))
        return base.clamp(self.log_snr_min, self.log_snr_max) + self.shift

    def time(self, log_snr: Values) -> Values:
        """The inverse of `log_snr`."""
        first, last = self._ends()
        return (_BASES[self.kind][1](log_snr - self.shift) - first) / (last - first)

    def steps(self, count: int, spacing: Spacing = "time") -> list[float]:
        """λ of the `count` + 1 nodes of a sampler, rising from noise to clean.

        time: equal steps of t; log_snr: equal steps of λ; karras: equal steps of (σ/α)^{1/7} (Karras et al., 2022).
        In float64: 1 − exp(λ_t − λ_s) and the ends of the schedule lose digits in float32.
        """
        even = torch.linspace(0.0, 1.0, count + 1, dtype=torch.float64)
        low, high = self.noisiest, self.log_snr_max + self.shift
        if spacing == "time":
            nodes = self.log_snr(1.0 - even)
        elif spacing == "log_snr":
            nodes = low + even * (high - low)
        else:
            first, last = (math.exp(-0.5 * end) ** (1 / 7) for end in (low, high))
            nodes = -14.0 * torch.log(first + even * (last - first))
        return nodes.tolist()
