"""The calibration of a trained model: held-out subjects are predicted in Ray Data's actors, and the rest is fitted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import torch

from sadm_ray.actor_pool import map_in_actor_pool
from sadm_ray.calibrate.bounds import missed_by, misses_of
from sadm_ray.calibrate.corrections import change_sums, spread_sums, with_change, with_spread
from sadm_ray.calibrate.held_out_models import HeldOutModel, held_out_models, subjects_of
from sadm_ray.config import SamplingSettings, Settings
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.errors import DataError, reason_of
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.recalibration import Recalibration, deciding
from sadm_ray.storage import Storage
from sadm_ray.tracking import TrackedRun

log = logging.getLogger(__name__)

_SEED = 2**30
"""Added to the run's seed: other draws than those of training and validation."""


def calibrate_model(settings: Settings, study: Study, sampling: SamplingSettings, tracked: TrackedRun) -> Recalibration:
    """Fit corrections and bounds of the run's model, and write them beside its weights. Needs a running Ray.

    Args:
        sampling: how samples will be drawn; what is fitted is used for these settings alone.

    Raises:
        ConfigError: nobody is held out.
        DataError: not one held-out subject could be predicted.
    """
    folder = settings.run_dir / "model"
    own = StoredModel.read(folder, sampling.ema)
    models = held_out_models(settings, study, sampling.ema, tracked)
    fitted = Recalibration()
    if own.build().prior_network is not None:
        fitted = with_change(_of_each(_change_sums, models, study, settings, fitted))
        fitted = with_spread(fitted, _of_each(_spread_sums, models, study, settings, fitted))
    fitted = fitted.model_copy(update={"sampling": deciding(sampling)})
    missed = _of_each(_missed, models, study, settings, fitted, sampling)
    by_task = {
        task.name: misses_of([each[task.name] for each in missed if each.get(task.name)])
        for task in settings.generate.tasks
        if any(each.get(task.name) for each in missed)
    }
    weights = hashlib.sha256(own.weights.data).hexdigest()
    fitted = fitted.model_copy(
        update={
            "misses": by_task, "subjects": len(missed), "folds": settings.calibrate.folds, "weights": weights
        }
    )  # fmt: skip
    fitted.write(Storage(str(folder)))
    return fitted


def _of_each(
    fit: Any,
    models: Sequence[HeldOutModel],
    study: Study,
    settings: Settings,
    fitted: Recalibration,
    sampling: SamplingSettings | None = None,
) -> list[Any]:
    """What `fit` finds for each held-out subject; one that fails is told and left out."""
    items = subjects_of(models)
    done = map_in_actor_pool(
        "calibrate",
        items,
        [1] * len(items),
        _of_subject,
        actors=settings.generate.actors,
        gpus=settings.generate.gpus_per_actor,
        fit=fit,
        models=tuple(each.model for each in models),
        study=study,
        settings=settings,
        fitted=fitted,
        sampling=sampling,
    )
    found = []
    for result in done:
        if "error" in result:
            log.warning("calibrate: subject %s is left out (%s)", result["subject"], result["error"])
        else:
            found.append(result["found"])
    if not found:
        raise DataError("calibrate: not one of the held-out subjects could be predicted; see above")
    return found


def _of_subject(
    item: tuple[int, str],
    fit: Any,
    models: tuple[StoredModel, ...],
    study: Study,
    settings: Settings,
    fitted: Recalibration,
    sampling: SamplingSettings | None,
) -> dict[str, Any]:
    number, subject = item
    try:
        device = "cuda" if settings.generate.gpus_per_actor else "cpu"
        if device == "cpu":
            torch.set_num_threads(1)
        model = models[number].build(device)
        row = read_subject(study, subject)
        return {"found": fit(model, row, settings, fitted, sampling)}
    except Exception as error:
        return {"subject": subject, "error": reason_of(error)}


def _change_sums(model: Any, row: Any, settings: Settings, *_: Any) -> Any:
    return change_sums(model, row, settings.calibrate.draws, settings.seed + _SEED)


def _spread_sums(model: Any, row: Any, settings: Settings, fitted: Recalibration, _: Any) -> Any:
    return spread_sums(model, row, fitted, settings.calibrate.draws, settings.seed + _SEED)


def _missed(model: Any, row: Any, settings: Settings, fitted: Recalibration, sampling: SamplingSettings) -> Any:
    model.recalibration = fitted
    wanted = settings.calibrate
    seed = settings.seed + _SEED
    return {task.name: missed_by(model, row, task, sampling, wanted.samples, seed) for task in settings.generate.tasks}
