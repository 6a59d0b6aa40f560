"""Which trainings are tried next, and which are stopped: Optuna and ASHA, which know what a killed sweep found."""

from __future__ import annotations

from types import SimpleNamespace

import optuna
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from sadm_ray.config import Settings
from sadm_ray.tune.history import History
from sadm_ray.tune.training_space import first_point, search_space

BETTER = {"val_gain": "max", "val_loss": "min"}
"""Which way the objectives are better."""
_STUDY = "sadm-training"


def trainings_to_try(settings: Settings, history: History) -> OptunaSearch:
    """Optuna: what a killed sweep had begun, then the settings' own values, then what TPE draws."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objective, space = settings.tune.training.objective, search_space(settings)
    better, storage = BETTER[objective], optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name=_STUDY, direction="maximize" if better == "max" else "minimize"
    )
    for trial in history.ended:
        value = trial.reports[-1][objective]
        study.add_trial(optuna.trial.create_trial(params=trial.point, distributions=space, value=value))
    known = [trial.point for trial in history.ended]
    first = [trial.point for trial in history.unfinished]
    own = first_point(settings)
    return OptunaSearch(
        space,
        metric=[objective],
        mode=[better],
        # With the same seed again, the random trials before the search proper would be those that there were.
        sampler=optuna.samplers.TPESampler(seed=settings.seed + len(known)),
        storage=storage,
        study_name=_STUDY,
        points_to_evaluate=[*first, *([own] if own not in known + first else [])],
    )


def trainings_to_stop(settings: Settings, history: History) -> ASHAScheduler:
    """ASHA over the steps of training, its rungs filled with what the ended trials reported."""
    sweep = settings.tune.training
    asha = ASHAScheduler(
        time_attr="steps",
        metric=sweep.objective,
        mode=BETTER[sweep.objective],
        max_t=settings.train.steps,
        grace_period=sweep.first_steps,
        reduction_factor=sweep.reduction,
    )
    for trial in history.ended:
        past = SimpleNamespace(trial_id=trial.name)
        asha.on_trial_add(None, past)
        for report in trial.reports:
            asha.on_trial_result(None, past, report)
        asha.on_trial_remove(None, past)
    return asha
