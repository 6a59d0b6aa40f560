"""The step that calibrates the trained model on subjects that it was not trained on."""

from __future__ import annotations

from sadm_ray.calibrate.calibration_job import calibrate_model
from sadm_ray.cluster import ray_session
from sadm_ray.config import Settings
from sadm_ray.model.recalibration import KINDS, Recalibration
from sadm_ray.steps.run_folder import alone_in_run, prepared_study
from sadm_ray.tracking import tracked_step
from sadm_ray.tune.tuned_settings import tuned_for


@alone_in_run
def calibrate(settings: Settings) -> Recalibration:
    """Fit the model's corrections and bounds for the sampling settings in use, those of the sweep if there are any."""
    study, tuned = prepared_study(settings), tuned_for(settings)
    sampling = settings.sampling if tuned is None else tuned.sampling
    with tracked_step(settings, "calibrate") as tracked, ray_session(settings):
        fitted = calibrate_model(settings, study, sampling, tracked)
        factors = {
            f"{kind}.{name}": value for kind in KINDS for name, value in getattr(fitted, kind).model_dump().items()
        }
        tracked.metrics({**factors, "subjects": fitted.subjects})
        tracked.artifact(settings.run_dir / "model" / "recalibration.json")
        return fitted
