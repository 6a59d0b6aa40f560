"""The step that sweeps the settings of sampling."""

from __future__ import annotations

from sadm_ray.cluster import ray_session
from sadm_ray.config import Settings
from sadm_ray.model.pretrained import load_model
from sadm_ray.steps.run_folder import alone_in_run, check_preparation, prepared_study
from sadm_ray.tracking import tracked_step
from sadm_ray.train.validation_tasks import check_tasks
from sadm_ray.tune.sampling_sweep import tune_sampling
from sadm_ray.tune.sweep_result import SamplingSweep, write_trials
from sadm_ray.tune.tuned_settings import TUNED, write_tuned


@alone_in_run
def tune(settings: Settings) -> SamplingSweep:
    """Sweep the sampling settings on validation subjects; the best go to `tuned.yaml`."""
    study, run_dir = prepared_study(settings), settings.run_dir
    check_preparation(run_dir / "model", load_model(run_dir / "model").config, study)
    check_tasks(settings, study, study.names("val")[: settings.tune.subjects])
    with tracked_step(settings, "tune") as tracked, ray_session(settings):
        swept = tune_sampling(settings, study, run_dir / "model", run_dir / "sweeps", tracked)
        write_tuned(run_dir / TUNED, swept)
        tables = write_trials(run_dir / "sweeps", swept, settings.tune.objectives[0])
        for file in (run_dir / TUNED, *tables):
            tracked.artifact(file)
        return swept
