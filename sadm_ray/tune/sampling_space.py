"""Where the sweep looks: from settings to Optuna's distributions or a grid, and from a trial's point back to settings.

A point is what a trial is told, by the names of `SamplingSettings`; what Optuna cannot hold is in it as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from sadm_ray.config import SamplingSettings, TuneSettings

Point = dict[str, Any]

EVERYWHERE, CHOSEN = "everywhere", "chosen"


def sampling_space(settings: TuneSettings) -> dict[str, BaseDistribution]:
    """The space of sampling settings."""
    ranges = {"guidance_scale": settings.guidance_scale, "stochasticity": settings.stochasticity}
    return {
        **{name: CategoricalDistribution(values) for name, values in _choices(settings).items()},
        **{name: FloatDistribution(low, high, step=_step(low, high)) for name, (low, high) in ranges.items()},
    }


def grid(settings: TuneSettings, base: SamplingSettings) -> list[Point]:
    """Every combination, `grid_points` of each range; of those that do the same, one."""

    def spread(low: float, high: float) -> list[float]:
        return np.unique(np.linspace(low, high, settings.grid_points)).tolist()

    axes = {
        **_choices(settings),
        "guidance_scale": spread(*settings.guidance_scale),
        "stochasticity": spread(*settings.stochasticity),
    }
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    distinct: dict[SamplingSettings, Point] = {}
    for point in points:
        distinct.setdefault(chosen_sampling(point, base), point)
    return list(distinct.values())


def plain_choices(settings: TuneSettings, base: SamplingSettings) -> list[Point]:
    """What to try first: each number of steps, else as in `base` or as near to it as may be; half of the trials."""
    low, high = settings.stochasticity
    wanted = {
        "sampler": base.sampler,
        "spacing": base.spacing,
        "guidance_interval": _interval_label(base.guidance_interval),
        "temperature": base.temperature,
        "ema": _ema_label(base.ema),
    }
    choices = {name: values for name, values in _choices(settings).items() if name in wanted}
    plain = {
        **{name: wanted[name] if wanted[name] in values else values[0] for name, values in choices.items()},
        "guidance_scale": _nearest(base.guidance_scale, *settings.guidance_scale),
        "stochasticity": _nearest(base.stochasticity, low, high),
    }
    return [{**plain, "num_steps": steps} for steps in settings.num_steps][: max(settings.trials // 2, 1)]


def chosen_sampling(point: Mapping[str, Any], base: SamplingSettings) -> SamplingSettings:
    """The settings of one trial on top of `base`, so that equal ones mean the same work.

    What is drawn finely is rounded to what anybody would type. What does nothing is as in `base`: the stochasticity of
    samplers that have none, the interval of no guidance, and all but the guidance and the temperature of a
    single step, which is one evaluation at the first noise level.
    """
    told = dict(point)
    for name in ("guidance_scale", "stochasticity"):
        if name in told:
            told[name] = round(told[name], 3) + 0.0  # and never −0
    if "guidance_interval" in told:
        label = told["guidance_interval"]
        told["guidance_interval"] = None if label == EVERYWHERE else tuple(map(float, label.split(" to ")))
    if "ema" in told:
        told["ema"] = None if told["ema"] == CHOSEN else float(told["ema"])
    sampling = SamplingSettings.model_validate({**base.model_dump(), **told})
    idle: dict[str, Any] = {}
    if sampling.num_steps == 1:
        idle |= {"sampler": base.sampler, "spacing": base.spacing}
    elif sampling.num_steps == 2 and sampling.sampler == "dpm++":
        idle["sampler"] = "ddim"  # the second order takes two evaluations before the last one
    if sampling.num_steps == 1 or sampling.sampler != "ancestral":
        idle["stochasticity"] = base.stochasticity
    if not sampling.guidance_scale:
        idle["guidance_interval"] = None
    return sampling.model_copy(update=idle)


def point_of(config: Mapping[str, Any]) -> Point:
    """A trial's point: a grid's is one value of Ray Tune's space, Optuna's is all of it."""
    return dict(config.get("point", config))


def _step(low: float, high: float) -> float | None:
    """Of a range, a twentieth: a guidance of 0.01 does nothing for twice the calls, and equal points are free."""
    return (high - low) / 20 if high > low else None


def _nearest(value: float, low: float, high: float) -> float:
    """The value of a range that a sweep may take and that is next to this one."""
    step = _step(low, high)
    steps = round((min(max(value, low), high) - low) / step) if step else 0
    return min(low + steps * (step or 0.0), high)


def _choices(settings: TuneSettings) -> dict[str, list[Any]]:
    return {
        "sampler": list(settings.sampler),
        "num_steps": list(settings.num_steps),
        "spacing": list(settings.spacing),
        "guidance_interval": [_interval_label(interval) for interval in settings.guidance_interval],
        "ema": [_ema_label(decay) for decay in settings.ema],
        **({"temperature": list(settings.temperature)} if settings.temperature else {}),
    }


def _interval_label(interval: tuple[float, float] | None) -> str:
    return EVERYWHERE if interval is None else f"{interval[0]} to {interval[1]}"


def _ema_label(decay: float | None) -> str:
    return CHOSEN if decay is None else str(decay)
