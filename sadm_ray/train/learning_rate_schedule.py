"""The learning-rate schedule."""

from __future__ import annotations

import math

from sadm_ray.config import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then constant or a half cosine to zero at the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
