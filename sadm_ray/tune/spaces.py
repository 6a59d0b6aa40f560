"""Where the sweeps look: from settings to Ray Tune's search spaces, and from a trial's choice back to settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import tune

from sadm_ray.config import SamplingSettings, TuneSettings


def sampling_space(settings: TuneSettings) -> dict[str, Any]:
    """The space of sampling settings."""
    return {
        "sampler": tune.choice(list(settings.sampler)),
        "num_steps": tune.choice(list(settings.num_steps)),
        "guidance_scale": tune.uniform(*settings.guidance_scale),
        "stochasticity": tune.uniform(*settings.stochasticity),
    }


def chosen_sampling(choice: Mapping[str, Any]) -> SamplingSettings:
    """The settings of one trial; what is drawn finely is rounded to what anybody would type."""
    return SamplingSettings.model_validate(
        {key: round(value, 3) if isinstance(value, float) else value for key, value in choice.items()}
    )


def network_calls(sampling: SamplingSettings) -> int:
    """Evaluations of the network for one frame: two a step when there is guidance."""
    return sampling.num_steps * (2 if sampling.guidance_scale else 1)
