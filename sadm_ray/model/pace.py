"""How fast time passes: a heart contracts slowly, then quickly, then slowly again, and so do they all."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sadm_ray.model.layers import Fourier, zeroed

WIDTH, OCTAVES = 32, 4
LOG_PACE = 4.0
"""One unit of the network's output."""
EXACT = 1e-5
"""A mean squared error of intensities that is as good as none."""
NODES = 8
"""Places between two times at which the pace is looked up (midpoints)."""


def reference_loss(reference: Float[Tensor, "b c d h w"], target: Float[Tensor, "b c d h w"]) -> Float[Tensor, " b"]:
    """The logarithm of the error of what moves at that pace, so that a part of it counts alike in all; 0 without error.

    It teaches the pace besides the losses of the networks that start from the reference.
    """
    return 0.5 * torch.log1p((target - reference).square().flatten(1).mean(dim=1) / EXACT)


class Pace(nn.Module):
    """How much happens in a while, compared with other whiles: the integral of a learned, positive pace.

    It depends on time alone, so every sample teaches it. At first time passes evenly. Only shares count, so it has no
    bias.

    Args:
        time_scale: the times' unit for the network.
    """

    def __init__(self, time_scale: float) -> None:
        super().__init__()
        self.time_scale = time_scale
        self.log_pace = nn.Sequential(Fourier(1, WIDTH, OCTAVES), zeroed(nn.Linear(WIDTH, 1, bias=False)))

    def forward(self, start: Float[Tensor, " b"], end: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What happens from `start` to `end`: of the sign of end − start."""
        shares = (torch.arange(NODES, device=start.device) + 0.5) / NODES
        times = start[:, None] + (end - start)[:, None] * shares
        with torch.autocast(start.device.type, enabled=False):
            pace = torch.exp(LOG_PACE * self.log_pace(times.reshape(-1, 1) / self.time_scale)).view_as(times)
        return (end - start) * pace.mean(dim=1)
