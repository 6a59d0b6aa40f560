"""Classifier-free guidance (Ho & Salimans, 2022): (1 + w) · conditional − w · unconditional.

At one z and λ, x̂, ε̂ and v̂ are affine in each other and the two weights add up to one, so guiding any of them is the
same; we guide x̂. With −1 < w < 0 it lies between the two: the condition counts in part only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Volume = Float[Tensor, "b c d h w"]
Denoise = Callable[[Volume, float], Volume]
"""(z, λ) → x̂, at one noise level for the whole batch: what a sampler calls."""
ConditionalDenoise = Callable[[Volume, float, Tensor], Volume]
"""(z, λ, condition) → x̂."""

EVERYWHERE = (float("-inf"), float("inf"))


def guide(
    denoise: ConditionalDenoise,
    condition: Tensor,
    null: Tensor,
    scale: float,
    interval: tuple[float, float] = EVERYWHERE,
    *,
    split: bool = False,
) -> Denoise:
    """A denoiser of z alone, guided with strength w = `scale`.

    Without strength, and outside of the interval, there is no unconditional branch and its cost.

    Args:
        null: the condition of the unconditional branch.
        interval: the λ between which guidance has its strength (Kynkäänniemi et al., 2024).
        split: put the two branches through the network one after the other rather than as one batch: half the memory.
    """

    def guided(z: Volume, log_snr: float) -> Volume:
        if scale == 0 or not interval[0] <= log_snr <= interval[1]:
            return denoise(z, log_snr, condition)
        if split:
            conditional, unconditional = denoise(z, log_snr, condition), denoise(z, log_snr, null)
        else:
            both = torch.cat([condition, null.expand_as(condition)])
            conditional, unconditional = denoise(torch.cat([z, z]), log_snr, both).chunk(2)
        return torch.lerp(unconditional, conditional, 1.0 + scale)

    return guided


def evaluations(log_snrs: Sequence[float], scale: float, interval: tuple[float, float] = EVERYWHERE) -> int:
    """How often a sampler that evaluates at these λ calls the network for one volume, guided as by `guide`."""
    return len(log_snrs) + (sum(interval[0] <= log_snr <= interval[1] for log_snr in log_snrs) if scale else 0)
