"""The models that predict held-out subjects: the trained one, or one that was trained without each group in turn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sadm_ray.config import Settings
from sadm_ray.config.settings_file import with_values
from sadm_ray.data.shards.fingerprints import fingerprints
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.tracking import TrackedRun
from sadm_ray.train.trainer import train_model

log = logging.getLogger(__name__)

FOLDER = "calibration"
"""Of the trainings, in the run's folder."""


@dataclass(frozen=True)
class HeldOutModel:
    """A model, and the subjects that it was not trained on."""

    model: StoredModel
    subjects: tuple[str, ...]


def held_out_models(settings: Settings, study: Study, ema: float | None, tracked: TrackedRun) -> list[HeldOutModel]:
    """With `calibrate.folds` one a fold, trained now if it is not yet; else the run's own, for the validation subjects.

    Every training is as the run's own, but for the subjects; interrupted, it is resumed.

    Raises:
        ConfigError: there are no validation subjects, or fewer training subjects than folds; or all that are held out
            taught the model that the training started from.
    """
    count = settings.calibrate.folds
    if not count:
        subjects = tuple(study.subjects.get("val", ()))
        if not subjects:
            raise ConfigError(
                "calibrate.folds: there are no validation subjects to calibrate on; set it to 2 or more, which trains "
                "so many more models, or data.split.val"
            )
        return [_without_the_taught(StoredModel.read(settings.run_dir / "model", ema), subjects, study)]
    names = study.names("train")
    if len(names) < 2 * count:
        raise ConfigError(f"calibrate.folds: {count} folds of {len(names)} training subjects; 2 each at least")
    found = []
    for fold in range(count):
        out = names[fold::count]
        its = replace(study, subjects={"train": tuple(name for name in names if name not in out)})
        values = {"run.dir": str(settings.run_dir / FOLDER), "run.name": f"fold-{fold}", "train.storage": None}
        child = tracked.child(f"fold-{fold}")
        trained = train_model(with_values(settings, values), its, _folder(settings, fold), child.unregistered)
        child.finish()
        found.append(_without_the_taught(StoredModel.read(trained.folder, ema), out, study))
    return found


def _without_the_taught(model: StoredModel, subjects: Sequence[str], study: Study) -> HeldOutModel:
    """The model and those of the subjects that did not teach it: the model that it started from may have seen some.

    Raises:
        ConfigError: all of them did.
    """
    who = fingerprints(study)
    taught = [name for name in subjects if model.seen.seen_as(who[name]) == "train"]
    left = tuple(name for name in subjects if name not in taught)
    if not left:
        raise ConfigError(
            f"calibrate.folds: all {len(taught)} held-out subjects taught the model that train.start_from names; hold "
            "out others (data.split), or leave start_from out"
        )
    if taught:
        log.warning(
            "calibrate: %d of %d held-out subjects taught the model that train.start_from names, and are left out "
            "(%s%s)",
            len(taught),
            len(subjects),
            ", ".join(taught[:3]),
            ", …" if len(taught) > 3 else "",
        )
    return HeldOutModel(model, left)


def _folder(settings: Settings, fold: int) -> Path:
    return settings.run_dir / FOLDER / f"fold-{fold}" / "model"


def subjects_of(models: Sequence[HeldOutModel]) -> list[tuple[int, str]]:
    """Each held-out subject with the number of the model that predicts it."""
    return [(number, subject) for number, each in enumerate(models) for subject in each.subjects]
