"""The time warp: how much of the change happens in a span of time, learned once for all subjects.

A heart contracts slowly, then quickly, then slowly again.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sadm_ray.diffusion.loss import channel_mean
from sadm_ray.model.layers import Fourier, zeroed

WIDTH, OCTAVES = 32, 4
LOG_RATE = 4.0
"""One unit of the network's output, in the logarithm of the rate."""
EXACT = 1e-5
"""A mean squared error of intensities below this counts as zero."""
NODES = 8
"""Midpoints between two times at which the rate is evaluated."""


def reference_loss(
    reference: Float[Tensor, "b c d h w"],
    target: Float[Tensor, "b c d h w"],
    counted: Bool[Tensor, "b c"] | None = None,
) -> Float[Tensor, " b"]:
    """The logarithm of the reference's error, so that every subject has equal weight; 0 without error.

    It trains the time warp, beside the losses of the networks that start from the reference.

    Args:
        counted: as in `loss.channel_mean`.
    """
    return 0.5 * torch.log1p(channel_mean((target - reference).square(), counted) / EXACT)


class TimeWarp(nn.Module):
    """The integral of a learned, positive rate between two times. Only ratios of two such integrals are used.

    It depends on time alone, so every sample trains it. Untrained the rate is constant; for ratios it needs no bias.

    Args:
        time_scale: the times' unit for the network.
    """

    def __init__(self, time_scale: float) -> None:
        super().__init__()
        self.time_scale = time_scale
        self.log_rate = nn.Sequential(Fourier(1, WIDTH, OCTAVES), zeroed(nn.Linear(WIDTH, 1, bias=False)))

    def forward(self, start: Float[Tensor, " b"], end: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The integral from `start` to `end`: of the sign of end − start."""
        shares = (torch.arange(NODES, device=start.device) + 0.5) / NODES
        times = start[:, None] + (end - start)[:, None] * shares
        with torch.autocast(start.device.type, enabled=False):
            rate = torch.exp(LOG_RATE * self.log_rate(times.reshape(-1, 1) / self.time_scale)).view_as(times)
        return (end - start) * rate.mean(dim=1)
