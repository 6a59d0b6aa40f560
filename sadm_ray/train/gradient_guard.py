"""Which gradients are not used: NaN, infinite, or far larger than usual."""

from __future__ import annotations

import math

from sadm_ray.config import TrainSettings

_SETTLE = 50
"""So many good steps before the size of a gradient counts as usual."""
_MEMORY = 0.98


class GradientGuard:
    """Judges the norm of each step's gradient, which is the same for all workers, and counts the bad ones.

    Attributes:
        skipped: bad steps in all.
        in_a_row: bad steps since the last good one.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self._factor = settings.spike_factor
        self._usual, self._good = 0.0, 0
        self.skipped = self.in_a_row = 0

    def accepts(self, norm: float) -> bool:
        """Whether a gradient of this norm is to be used."""
        spike = self._factor is not None and self._good >= _SETTLE and norm > self._factor * self._usual
        if not math.isfinite(norm) or spike:
            self.skipped += 1
            self.in_a_row += 1
            return False
        self.in_a_row = 0
        self._usual = norm if not self._good else _MEMORY * self._usual + (1 - _MEMORY) * norm
        self._good += 1
        return True

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps of it."""
        return {"usual": self._usual, "good": self._good, "skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: dict[str, float]) -> None:
        """Put back what `state` told."""
        self._usual, self._good = float(state["usual"]), int(state["good"])
        self.skipped, self.in_a_row = int(state["skipped"]), int(state["in_a_row"])
