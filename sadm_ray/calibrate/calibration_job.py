"""The calibration of a trained model: held-out subjects are predicted in Ray Data's actors, and the rest is fitted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from sadm_ray.actor_pool import map_in_actor_pool
from sadm_ray.calibrate.bounds import missed_by, misses_of
from sadm_ray.calibrate.corrections import change_sums, spread_sums, with_change, with_spread
from sadm_ray.calibrate.held_out_models import HeldOutModel, held_out_models, subjects_of
from sadm_ray.calibrate.held_out_prediction import predict_held_out
from sadm_ray.calibrate.structure_errors import errors_of, structure_errors
from sadm_ray.config import SamplingSettings, Settings
from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.data.label_maps import labels_of
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.errors import DataError, reason_of
from sadm_ray.generate.volume_corrections import too_few, volumes_by_task
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.recalibration import NOT_CALIBRATED, Recalibration, deciding
from sadm_ray.storage import Storage
from sadm_ray.tracking import TrackedRun

log = logging.getLogger(__name__)

_SEED = 2**30
"""Added to the run's seed: other draws than those of training and validation."""
Fit = Callable[[SequenceModel, Mapping[str, Any]], Any]
"""What is found for one held-out subject: plain JSON."""


def calibrate_model(settings: Settings, study: Study, sampling: SamplingSettings, tracked: TrackedRun) -> Recalibration:
    """Fit corrections and bounds of the run's model, and write them beside its weights. Needs a running Ray.

    Args:
        sampling: how samples will be drawn; what is fitted is used for these settings alone.

    Raises:
        ConfigError: nobody is held out.
        DataError: not one held-out subject could be predicted.
    """
    folder, seed, draws = settings.run_dir / "model", settings.seed + _SEED, settings.calibrate.draws
    own = StoredModel.read(folder, sampling.ema)
    models = held_out_models(settings, study, sampling.ema, tracked)

    def of_each(fit: Fit) -> list[Any]:
        return _of_each(fit, models, study, settings)

    fitted = NOT_CALIBRATED
    if own.build().prior_network is not None:
        fitted = with_change(of_each(partial(change_sums, draws=draws, seed=seed)))
        fitted = with_spread(fitted, of_each(partial(spread_sums, draws=draws, seed=seed)))
    labels = labels_of(study)
    errors = of_each(partial(_errors, settings=settings, sampling=sampling, fitted=fitted, seed=seed, labels=labels))
    by_task = {task.name: [each[task.name] for each in errors if task.name in each] for task in settings.generate.tasks}
    missed = {task: [each["missed"] for each in its if each["missed"]] for task, its in by_task.items()}
    volumes = {
        task: errors_of([e["volumes"] for e in its], settings.calibrate.samples) for task, its in by_task.items()
    }
    fitted = fitted.model_copy(
        update={
            "misses": {task: misses_of(subjects) for task, subjects in missed.items() if subjects},
            "volumes": {task: its for task, its in volumes.items() if its},
            "subjects": len(errors),
            "folds": settings.calibrate.folds,
            "sampling": deciding(sampling),
            "weights": hashlib.sha256(own.weights.data).hexdigest(),
        }
    )
    for line in too_few(volumes_by_task(fitted), settings.generate.level):
        log.warning("calibrate: %s", line)
    fitted.write(Storage(str(folder)))
    return fitted


def _errors(
    model: SequenceModel,
    row: Mapping[str, Any],
    settings: Settings,
    sampling: SamplingSettings,
    fitted: Recalibration,
    seed: int,
    labels: LabelFiles | None,
) -> dict[str, dict[str, Any]]:
    """By task what the recalibrated model's bounds miss of a subject, and the errors of its structures' volumes.

    Without the tasks that it cannot answer.
    """
    model.recalibration = fitted
    found = {}
    for task in settings.generate.tasks:
        predicted = predict_held_out(model, row, task, sampling, settings.calibrate.samples, seed, labels)
        if predicted is not None:
            volumes = structure_errors(predicted, row, labels)
            found[task.name] = {"missed": missed_by(predicted, row), "volumes": volumes}
    return found


def _of_each(fit: Fit, models: Sequence[HeldOutModel], study: Study, settings: Settings) -> list[Any]:
    """What `fit` finds for each held-out subject; one that fails is told and left out."""
    items, wanted = subjects_of(models), settings.generate
    done = map_in_actor_pool(
        "calibrate",
        items,
        [1] * len(items),
        _of_subject,
        actors=wanted.actors,
        gpus=wanted.gpus_per_actor,
        fit=fit,
        models=tuple(each.model for each in models),
        study=study,
        device="cuda" if wanted.gpus_per_actor else "cpu",
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
    item: tuple[int, str], fit: Fit, models: tuple[StoredModel, ...], study: Study, device: str
) -> dict[str, Any]:
    number, subject = item
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        return {"found": fit(models[number].build(device), read_subject(study, subject))}
    except Exception as error:
        return {"subject": subject, "error": reason_of(error)}
