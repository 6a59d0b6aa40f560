"""The steps that train, say what training would cost, and sweep its settings."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sadm_ray.cluster import ray_session
from sadm_ray.config import Settings
from sadm_ray.data.shards.known_covariates import unknown_covariates
from sadm_ray.run_lock import alone_in
from sadm_ray.steps.run_folder import alone_in_run, is_prepared, prepared_study
from sadm_ray.storage import Storage
from sadm_ray.tracking import begin_anew, tracked_step
from sadm_ray.train.checkpoint import checkpoints_folder
from sadm_ray.train.dry_run import DryRun
from sadm_ray.train.dry_run import estimate as estimate_training
from sadm_ray.train.resume_check import is_begun
from sadm_ray.train.trainer import TrainedModel, train_model
from sadm_ray.train.validation_tasks import check_validation_tasks

if TYPE_CHECKING:
    from sadm_ray.tune.training_sweep import TrainingSweep

log = logging.getLogger(__name__)


@alone_in_run
def train(settings: Settings) -> TrainedModel:
    """Train on the shards; run again, it goes on where it was."""
    study, checkpoints = prepared_study(settings), checkpoints_folder(settings)
    check_validation_tasks(settings, study)
    for line in unknown_covariates(study, study.subjects.get("train", ()), settings.model.covariates):
        log.warning("model.covariates: %s", line)
    if not is_begun(Storage(checkpoints)):
        begin_anew(settings, "train")
    with (
        alone_in(checkpoints, "train.storage"),
        tracked_step(settings, "train") as tracked,
        ray_session(settings),
    ):
        return train_model(settings, study, settings.run_dir / "model", tracked)


def estimate(settings: Settings) -> DryRun:
    """What training would cost; nothing is trained or written, and the study need not be prepared."""
    study = prepared_study(settings) if is_prepared(settings) else None
    if study is not None:
        check_validation_tasks(settings, study)
    return estimate_training(settings, study)


@alone_in_run
def tune_training(settings: Settings) -> TrainingSweep:
    """Sweep the settings of training; the best go to `tuned-training.yaml`, a settings file for a run of its own."""
    from sadm_ray.tune.training_sweep import tune_training as sweep_training
    from sadm_ray.tune.training_sweep import write_tuned_training

    study, run_dir = prepared_study(settings), settings.run_dir
    check_validation_tasks(settings, study, scored=settings.tune.training.objective == "val_gain")
    with tracked_step(settings, "tune-training") as tracked, ray_session(settings):
        swept = sweep_training(settings, study, run_dir / "sweeps", tracked)
        file, table = run_dir / "tuned-training.yaml", run_dir / "sweeps" / "training-trials.csv"
        write_tuned_training(file, swept, settings)
        swept.trials.to_csv(table, index=False)
        tracked.artifact(file)
        tracked.artifact(table)
        return swept
