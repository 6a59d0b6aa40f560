"""Who says what is tried next, and what is stopped: Optuna or a grid, and ASHA; both know what a killed sweep found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from sadm_ray.config import SamplingSettings, TuneSettings
from sadm_ray.evaluate.objectives import OBJECTIVES
from sadm_ray.tune.history import History
from sadm_ray.tune.spaces import Point, grid, plain_choices, sampling_space
from sadm_ray.tune.trial import rungs

_STUDY = "sadm"


def what_to_try(
    settings: TuneSettings, base: SamplingSettings, history: History, seed: int
) -> tuple[int, dict[str, Any], OptunaSearch | None]:
    """How many trials are left, Ray Tune's space for them, and the searcher (a grid needs none)."""
    if settings.search == "grid":
        done = [trial.point for trial in history.ended]
        points = [point for point in grid(settings, base) if point not in done]
        return len(points), {"point": tune.grid_search(points)}, None
    left = max(settings.trials - len(history.ended), 0)
    return left, {}, _optuna_search(settings, base, history, seed)


def _optuna_search(settings: TuneSettings, base: SamplingSettings, history: History, seed: int) -> OptunaSearch:
    """The trials that were killed come first, then the plain choices; those that ended are known from the start."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    modes = [OBJECTIVES[name][0] for name in settings.objectives]
    space, storage = sampling_space(settings), optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage,
        study_name=_STUDY,
        directions=["maximize" if mode == "max" else "minimize" for mode in modes],
    )
    for trial in history.ended:
        values = [trial.reports[-1][name] for name in settings.objectives]
        if all(value == value for value in values):  # Optuna takes no NaN
            study.add_trial(optuna.trial.create_trial(params=trial.point, distributions=space, values=values))
    known: list[Point] = [trial.point for trial in history.ended]
    first = [trial.point for trial in history.unfinished]
    first += [point for point in plain_choices(settings, base) if point not in known + first]
    # With the same seed again, the random trials before the search proper would be those that there were.
    seed += len(known)
    sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=seed)
    if settings.search == "nsga2":
        population = min(max(settings.trials // 5, 4), 50)
        sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    return OptunaSearch(
        space,
        metric=list(settings.objectives),
        mode=modes,
        sampler=sampler,
        storage=storage,
        study_name=_STUDY,
        points_to_evaluate=first,
    )


def who_is_stopped(settings: TuneSettings, subjects: int, history: History) -> TrialScheduler:
    """ASHA on the first objective, its rungs filled with what the ended trials reported."""
    stops = rungs(settings, subjects)
    if settings.reduction is None or len(stops) < 2:
        return FIFOScheduler()
    first = settings.objectives[0]
    asha = ASHAScheduler(
        time_attr="subjects",
        metric=first,
        mode=OBJECTIVES[first][0],
        max_t=subjects,
        grace_period=stops[0],
        reduction_factor=settings.reduction,
    )
    for trial in history.ended:
        past = SimpleNamespace(trial_id=trial.name)
        asha.on_trial_add(None, past)
        for report in trial.reports:
            asha.on_trial_result(None, past, report)
        asha.on_trial_remove(None, past)
    return asha
