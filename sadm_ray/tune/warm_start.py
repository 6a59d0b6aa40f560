"""Warm start: Optuna and ASHA with the results of a killed sweep, as if it had not been killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from sadm_ray.tune.trial_history import History

_STUDY = "sadm"


def warm_started_optuna(
    history: History,
    space: dict[str, BaseDistribution],
    objectives: Mapping[str, str],
    sampler: optuna.samplers.BaseSampler,
    initial_points: Sequence[Mapping[str, Any]],
) -> OptunaSearch:
    """A searcher that has the results of the ended trials; unfinished trials are repeated before all others.

    Args:
        objectives: `max` or `min` by objective.
        initial_points: points to try before the search, unless the history has them.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.InMemoryStorage()
    directions = ["maximize" if mode == "max" else "minimize" for mode in objectives.values()]
    study = optuna.create_study(storage=storage, study_name=_STUDY, directions=directions)
    for trial in history.ended:
        values = [trial.reports[-1][name] for name in objectives]
        if all(value == value for value in values):  # Optuna takes no NaN
            study.add_trial(optuna.trial.create_trial(params=trial.point, distributions=space, values=values))
    killed = [trial.point for trial in history.unfinished]
    known = [*killed, *(trial.point for trial in history.ended)]
    return OptunaSearch(
        space,
        metric=list(objectives),
        mode=list(objectives.values()),
        sampler=sampler,
        storage=storage,
        study_name=_STUDY,
        points_to_evaluate=[*killed, *(dict(point) for point in initial_points if point not in known)],
    )


def warm_started_asha(history: History, **settings: Any) -> ASHAScheduler:
    """ASHA (Li et al., 2020) with these settings, its rungs filled with the reports of the ended trials."""
    asha = ASHAScheduler(**settings)
    for trial in history.ended:
        past = SimpleNamespace(trial_id=trial.name)
        asha.on_trial_add(None, past)
        for report in trial.reports:
            asha.on_trial_result(None, past, report)
        asha.on_trial_remove(None, past)
    return asha
