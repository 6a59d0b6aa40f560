"""The search space of sampling settings: as Optuna's distributions or a grid, and from a point back to settings.

A point holds the values of one trial by the names of `SamplingSettings`; values that Optuna cannot hold are text.
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
    """The search space as Optuna's distributions."""
    ranges = {"guidance_scale": settings.guidance_scale, "stochasticity": settings.stochasticity}
    return {
        **{name: CategoricalDistribution(values) for name, values in _choices(settings).items()},
        **{name: FloatDistribution(low, high, step=_step(low, high)) for name, (low, high) in ranges.items()},
    }


def grid(settings: TuneSettings, base: SamplingSettings) -> list[Point]:
    """Every combination, with `grid_points` values of each range; without those that are equal to another."""

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
        distinct.setdefault(trial_sampling(point, base), point)
    return list(distinct.values())


def initial_points(settings: TuneSettings, base: SamplingSettings) -> list[Point]:
    """The first points: every number of steps with `base`, or the nearest in the space; at most half of the trials."""
    low, high = settings.stochasticity
    own = {
        "sampler": base.sampler,
        "spacing": base.spacing,
        "guidance_interval": _interval_label(base.guidance_interval),
        "temperature": base.temperature,
        "ema": _ema_label(base.ema),
    }
    choices = {name: values for name, values in _choices(settings).items() if name in own}
    initial = {
        **{name: own[name] if own[name] in values else values[0] for name, values in choices.items()},
        "guidance_scale": _nearest_step(base.guidance_scale, *settings.guidance_scale),
        "stochasticity": _nearest_step(base.stochasticity, low, high),
    }
    return [{**initial, "num_steps": steps} for steps in settings.num_steps][: max(settings.trials // 2, 1)]


def trial_sampling(point: Mapping[str, Any], base: SamplingSettings) -> SamplingSettings:
    """The settings of a trial: `base` with the values of its point, normalised so that equivalent points are equal.

    Drawn numbers are rounded to three decimals. Settings without effect are as in `base`: the stochasticity of samplers
    that have none, the interval of no guidance, and, with a single step (one evaluation at the first noise level), all
    but the guidance, the temperature and whether the sampler is `euler`.
    """
    values = dict(point)
    for name in ("guidance_scale", "stochasticity"):
        if name in values:
            values[name] = round(values[name], 3) + 0.0  # never −0
    if "guidance_interval" in values:
        label = values["guidance_interval"]
        values["guidance_interval"] = None if label == EVERYWHERE else tuple(map(float, label.split(" to ")))
    if "ema" in values:
        values["ema"] = None if values["ema"] == CHOSEN else float(values["ema"])
    sampling = SamplingSettings.model_validate({**base.model_dump(), **values})
    unused: dict[str, Any] = {}
    if sampling.num_steps == 1:
        unused["spacing"] = base.spacing
        if sampling.sampler != "euler":  # which draws from the prior; the others all give its mean
            unused["sampler"] = "ddim" if base.sampler == "euler" else base.sampler
    elif sampling.num_steps == 2 and sampling.sampler == "dpm++":
        unused["sampler"] = "ddim"  # the second order takes two evaluations before the last one
    if sampling.num_steps == 1 or sampling.sampler != "ancestral":
        unused["stochasticity"] = base.stochasticity
    if not sampling.guidance_scale:
        unused["guidance_interval"] = None
    return sampling.model_copy(update=unused)


def point_of(config: Mapping[str, Any]) -> Point:
    """The point of a trial from Ray Tune's config, where a grid has it under `point` and Optuna at the top."""
    return dict(config.get("point", config))


def _step(low: float, high: float) -> float | None:
    """A twentieth of the range: finer values change next to nothing, and repeated points cost nothing."""
    return (high - low) / 20 if high > low else None


def _nearest_step(value: float, low: float, high: float) -> float:
    """The nearest value to this one in the steps of a range."""
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
