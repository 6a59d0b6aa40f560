"""What x is: the volume itself, as in the paper, or the residual, its difference from the reference.

Most of a scan does not change between visits, so the residual spends the model on what does. It is divided by `scale`,
its standard deviation over the training subjects, so that the process sees unit variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Volume = Float[Tensor, "b c d h w"]


@dataclass(frozen=True)
class Residual:
    """From a volume in [0, 1] to x and back, given the reference.

    For `motion`, x is the difference too; the prior then also predicts it by displacement fields
    (`sadm_ray.model.displacement_field`).
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
