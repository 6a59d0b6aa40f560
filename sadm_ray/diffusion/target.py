"""What x is: the volume itself, as in the paper, or its difference from the nearest observed frame (the reference).

Most of a scan does not change between visits, so the difference spends the model on what does. It is divided by
`scale`, its standard deviation over the training subjects, so that the process sees unit variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Volume = Float[Tensor, "b c d h w"]


@dataclass(frozen=True)
class Target:
    """The two ways between a volume in [0, 1] and x, given the reference frame.

    For `motion`, x is the difference too; what differs is how the denoiser says it (`sadm_ray.model.motion`).
    """

    kind: Literal["volume", "difference", "motion"]
    scale: float = 1.0

    def encode(self, volume: Volume, reference: Volume) -> Volume:
        """x from a volume."""
        if self.kind == "volume":
            return 2.0 * volume - 1.0
        return (volume - reference) / self.scale

    def decode(self, x: Volume, reference: Volume) -> Volume:
        """The volume from x, not clamped."""
        if self.kind == "volume":
            return 0.5 * (x + 1.0)
        return reference + self.scale * x


def nearest_observed(
    observed: Bool[Tensor, "b t"], times: Float[Tensor, "b t"], target_time: Float[Tensor, " b"]
) -> Int[Tensor, " b"]:
    """Index of the observed frame nearest in time to the target; of two equally near, the first."""
    gap = (times - target_time[:, None]).abs()
    return torch.where(observed, gap, torch.inf).argmin(dim=1)
