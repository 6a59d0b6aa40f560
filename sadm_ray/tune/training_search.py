"""The search of a training sweep: Optuna draws the trials, ASHA stops them early."""

from __future__ import annotations

import optuna
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from sadm_ray.config import Settings
from sadm_ray.tune.training_space import initial_point, search_space
from sadm_ray.tune.trial_history import History
from sadm_ray.tune.warm_start import warm_started_asha, warm_started_optuna

OBJECTIVES = {"val_gain": "max", "val_loss": "min"}
"""Whether the best value of an objective is its highest or lowest."""


def optuna_search(settings: Settings, history: History) -> OptunaSearch:
    """The values of the settings first, then those that TPE draws."""
    objective = settings.tune.training.objective
    # The same seed would repeat the random trials with which the search starts.
    sampler = optuna.samplers.TPESampler(seed=settings.seed + len(history.ended))
    objectives: dict[str, str] = {objective: OBJECTIVES[objective]}
    return warm_started_optuna(history, search_space(settings), objectives, sampler, [initial_point(settings)])


def early_stopping(settings: Settings, history: History) -> ASHAScheduler:
    """ASHA over the steps of training."""
    sweep = settings.tune.training
    return warm_started_asha(
        history,
        time_attr="steps",
        metric=sweep.objective,
        mode=OBJECTIVES[sweep.objective],
        max_t=settings.train.steps,
        grace_period=sweep.first_steps,
        reduction_factor=sweep.reduction,
    )
