"""The search space of training settings, and the settings of a trial from a point drawn in it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sadm_ray.config import Range, Settings, TrainingSweepSettings
from sadm_ray.config.renamed_settings import with_former_names
from sadm_ray.config.settings_file import with_values
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError

_SECTIONS = {"model", "diffusion", "train", "sampling"}
_FIXED = {"steps", "storage", "workers", "min_workers", "device", "validation"}
"""Training settings that must be the same in all trials."""


def check_space(settings: Settings) -> None:
    """Check every key and value of `tune.training` before anything starts.

    Raises:
        ConfigError: a key is unknown or may not differ between trials, a value is invalid, or the first rung is after
            the last step. Invalid combinations of values are found by the trials.
    """
    sweep, steps = settings.tune.training, settings.train.steps
    if sweep.first_steps > steps:
        raise ConfigError(
            f"tune.training.first_steps: {sweep.first_steps} is more than train.steps, {steps}; no trial gets there"
        )
    for key, where in sweep.space.items():
        section, _, rest = key.partition(".")
        if section not in _SECTIONS or (section == "train" and rest.partition(".")[0] in _FIXED):
            raise ConfigError(
                f"tune.training.space: {key}: has to be the same in every trial; a sweep of training may change "
                f"{', '.join(sorted(_SECTIONS))}, but not train.{', train.'.join(sorted(_FIXED))}"
            )
        if not isinstance(where, Range) and not where:
            raise ConfigError(f"tune.training.space: {key}: an empty list; name the values to choose from")
        for value in (where.low, where.high) if isinstance(where, Range) else where:
            if problem := _problem(settings, key, value):
                raise ConfigError(f"tune.training.space: {problem}")
        if isinstance(where, Range) and _is_integer(settings, key, where) and not _has_integer_ends(where):
            raise ConfigError(f"tune.training.space: {key}: a whole number; give a range between whole numbers")


def search_space(settings: Settings) -> dict[str, BaseDistribution]:
    """The search space as Optuna's distributions. Choices are JSON texts, since Optuna takes no lists."""
    space: dict[str, BaseDistribution] = {}
    for key, where in settings.tune.training.space.items():
        if not isinstance(where, Range):
            space[key] = CategoricalDistribution(_json_choices(where))
        elif _is_integer(settings, key, where):
            space[key] = IntDistribution(int(where.low), int(where.high), log=where.log)
        else:
            space[key] = FloatDistribution(where.low, where.high, log=where.log)
    return space


def initial_point(settings: Settings) -> dict[str, Any]:
    """The settings themselves, or the nearest in the space, as the first trial: the baseline of the sweep."""
    point: dict[str, Any] = {}
    for key, where in settings.tune.training.space.items():
        value = _setting(settings, key)
        if not isinstance(where, Range):
            choices = _json_choices(where)
            point[key] = json.dumps(value) if json.dumps(value) in choices else choices[0]
        else:
            number = value if isinstance(value, int | float) else where.low
            inside = min(max(number, where.low), where.high)
            point[key] = int(inside) if _is_integer(settings, key, where) else float(inside)
    return point


def drawn_values(point: Mapping[str, Any], sweep: TrainingSweepSettings) -> dict[str, Any]:
    """What Optuna drew, by dotted key; numbers are rounded to three significant digits."""
    values: dict[str, Any] = {}
    for key, where in sweep.space.items():
        drawn = point[key]
        if not isinstance(where, Range):
            values[key] = json.loads(drawn)
        elif isinstance(drawn, float):
            values[key] = min(max(float(f"{drawn:.3g}"), where.low), where.high)
        else:
            values[key] = int(drawn)
    return values


def trial_settings(base: Settings, values: Mapping[str, Any], study: Study, folder: Path) -> Settings:
    """The settings of a trial: a run in `folder`, named by a digest of all that decides its result.

    So a training is found again by its values, also by another sweep.

    Raises:
        ConfigError: the combination of values is invalid.
    """
    every = "generate_every" if base.tune.training.objective == "val_gain" else "loss_every"
    validated = {f"train.validation.{every}": base.tune.training.first_steps}  # every rung is a multiple of it
    settings = with_values(base, {**values, **validated})
    decisive = with_former_names(settings.model_dump(mode="json", include=_SECTIONS | {"seed"}))
    tasks = [task.model_dump(mode="json") for task in settings.generate.tasks]
    text = json.dumps([decisive, tasks, study.digest, study.location], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    placed: dict[str, Any] = {"run.name": name, "run.dir": str(folder)}
    if base.train.storage is not None:
        placed["train.storage"] = f"{base.train.storage.rstrip('/')}/{base.run.name}/trials"
    return with_values(settings, placed)


def _json_choices(choices: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(json.dumps(choice) for choice in choices))


def _problem(settings: Settings, key: str, value: Any) -> str | None:
    """What is wrong with the value itself, in one line that begins with the key; none if it is valid."""
    try:
        with_values(settings, {key: value})
    except ConfigError as error:
        return str(error) if str(error).startswith(key) else None
    return None


def _is_integer(settings: Settings, key: str, where: Range) -> bool:
    """Whether the setting takes integers only: it refuses a number within the range that is none."""
    return _problem(settings, key, where.low + (where.high - where.low) / math.pi) is not None


def _has_integer_ends(where: Range) -> bool:
    return where.low.is_integer() and where.high.is_integer()


def _setting(settings: Settings, key: str) -> Any:
    value: Any = settings.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value
