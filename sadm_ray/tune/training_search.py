"""Which trainings are tried next, and which are stopped: Optuna and ASHA."""

from __future__ import annotations

import optuna
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from sadm_ray.config import Settings
from sadm_ray.tune.training_space import first_point, search_space
from sadm_ray.tune.trial_history import History
from sadm_ray.tune.warm_start import warm_started_asha, warm_started_optuna

BETTER = {"val_gain": "max", "val_loss": "min"}
"""Which way the objectives are better."""


def trainings_to_try(settings: Settings, history: History) -> OptunaSearch:
    """The settings' own values first, then what TPE draws."""
    objective = settings.tune.training.objective
    # With the same seed again, the random trials before the search proper would be those that there were.
    sampler = optuna.samplers.TPESampler(seed=settings.seed + len(history.ended))
    objectives: dict[str, str] = {objective: BETTER[objective]}
    return warm_started_optuna(history, search_space(settings), objectives, sampler, [first_point(settings)])


def trainings_to_stop(settings: Settings, history: History) -> ASHAScheduler:
    """ASHA over the steps of training."""
    sweep = settings.tune.training
    return warm_started_asha(
        history,
        time_attr="steps",
        metric=sweep.objective,
        mode=BETTER[sweep.objective],
        max_t=settings.train.steps,
        grace_period=sweep.first_steps,
        reduction_factor=sweep.reduction,
    )
