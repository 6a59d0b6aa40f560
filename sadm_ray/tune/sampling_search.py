"""The search of a sampling sweep: Optuna or a grid draws the trials, ASHA stops them early."""

from __future__ import annotations

from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from sadm_ray.config import SamplingSettings, TuneSettings
from sadm_ray.evaluate.sweep_objectives import OBJECTIVES
from sadm_ray.tune.sampling_space import grid, initial_points, sampling_space
from sadm_ray.tune.sampling_trial import rungs
from sadm_ray.tune.trial_history import History
from sadm_ray.tune.warm_start import warm_started_asha, warm_started_optuna


def trials_to_run(
    settings: TuneSettings, base: SamplingSettings, history: History, seed: int
) -> tuple[int, dict[str, Any], OptunaSearch | None]:
    """How many trials are left, Ray Tune's space for them, and the searcher (a grid needs none)."""
    if settings.search == "grid":
        done = [trial.point for trial in history.ended]
        points = [point for point in grid(settings, base) if point not in done]
        return len(points), {"point": tune.grid_search(points)}, None
    left = max(settings.trials - len(history.ended), 0)
    # The same seed would repeat the random trials with which the search starts.
    seed += len(history.ended)
    sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=seed)
    if settings.search == "nsga2":
        population = min(max(settings.trials // 5, 4), 50)
        sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    objectives: dict[str, str] = {name: OBJECTIVES[name][0] for name in settings.objectives}
    searcher = warm_started_optuna(
        history, sampling_space(settings), objectives, sampler, initial_points(settings, base)
    )
    return left, {}, searcher


def early_stopping(settings: TuneSettings, subjects: int, history: History) -> TrialScheduler:
    """ASHA on the first objective; no early stopping with a single rung."""
    rung_subjects = rungs(settings, subjects)
    if settings.reduction is None or len(rung_subjects) < 2:
        return FIFOScheduler()
    first = settings.objectives[0]
    return warm_started_asha(
        history,
        time_attr="subjects",
        metric=first,
        mode=OBJECTIVES[first][0],
        max_t=subjects,
        grace_period=rung_subjects[0],
        reduction_factor=settings.reduction,
    )
