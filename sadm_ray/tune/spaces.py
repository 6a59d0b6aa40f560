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


def plain_choices(settings: TuneSettings, base: SamplingSettings) -> list[dict[str, Any]]:
    """What to try first: no guidance, each number of steps, else as in `base`; at most half of the trials."""
    sampler = base.sampler if base.sampler in settings.sampler else settings.sampler[0]
    low, high = settings.stochasticity
    plain = {
        "sampler": sampler,
        "guidance_scale": settings.guidance_scale[0],
        "stochasticity": min(max(base.stochasticity, low), high),
    }
    return [{**plain, "num_steps": steps} for steps in settings.num_steps][: max(settings.trials // 2, 1)]


def chosen_sampling(choice: Mapping[str, Any], base: SamplingSettings) -> SamplingSettings:
    """The settings of one trial on top of `base`; what is drawn finely is rounded to what anybody would type."""
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in choice.items()}
    return SamplingSettings.model_validate({**base.model_dump(), **rounded})


def network_calls(sampling: SamplingSettings) -> int:
    """Evaluations of the network for one frame: two a step when there is guidance."""
    return sampling.num_steps * (2 if sampling.guidance_scale else 1)
