"""The gradient guard: skips steps whose gradient is NaN, infinite, or far larger than usual."""

from __future__ import annotations

import math

from sadm_ray.config import TrainSettings

_WARMUP_STEPS = 50
"""Accepted steps before a gradient can be a spike."""
_DECAY = 0.98
"""Of the moving average of the norm."""


class GradientGuard:
    """Checks the norm of each step's gradient, which is the same on all workers, and counts the skipped steps.

    Attributes:
        skipped: skipped steps in all.
        in_a_row: skipped steps since the last accepted one.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self._factor = settings.spike_factor
        self._mean_norm, self._accepted = 0.0, 0
        self.skipped = self.in_a_row = 0

    def accepts(self, norm: float) -> bool:
        """Whether a gradient of this norm is to be used."""
        spike = self._factor is not None and self._accepted >= _WARMUP_STEPS and norm > self._factor * self._mean_norm
        if not math.isfinite(norm) or spike:
            self.skipped += 1
            self.in_a_row += 1
            return False
        self.in_a_row = 0
        self._mean_norm = norm if not self._accepted else _DECAY * self._mean_norm + (1 - _DECAY) * norm
        self._accepted += 1
        return True

    def state(self) -> dict[str, float]:
        """Its state, for a checkpoint."""
        return {"usual": self._mean_norm, "good": self._accepted, "skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: dict[str, float]) -> None:
        """Load what `state` returned."""
        self._mean_norm, self._accepted = float(state["usual"]), int(state["good"])
        self.skipped, self.in_a_row = int(state["skipped"]), int(state["in_a_row"])
