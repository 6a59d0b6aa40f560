"""Classifier-free guidance (Ho & Salimans, 2022): (1 + w) · conditional − w · unconditional.

At one z and λ, x̂, ε̂ and v̂ are affine in each other and the two weights add up to one, so guiding any of them is the
same; we guide x̂.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Volume = Float[Tensor, "b c d h w"]
Denoise = Callable[[Volume, Float[Tensor, " b"]], Volume]
"""(z, λ) → x̂."""
ConditionalDenoise = Callable[[Volume, Float[Tensor, " b"], Tensor], Volume]
"""(z, λ, condition) → x̂."""


def guide(denoise: ConditionalDenoise, condition: Tensor, null: Tensor, scale: float) -> Denoise:
    """A denoiser of z alone, guided with strength w = `scale`.

    Both branches go through the network as one batch. Without strength there is one branch and its cost.
    """
    if scale == 0:
        return lambda z, log_snr: denoise(z, log_snr, condition)
    both = torch.cat([condition, null.expand_as(condition)])

    def guided(z: Volume, log_snr: Float[Tensor, " b"]) -> Volume:
        conditional, unconditional = denoise(z.repeat(2, 1, 1, 1, 1), log_snr.repeat(2), both).chunk(2)
        return torch.lerp(unconditional, conditional, 1.0 + scale)

    return guided
