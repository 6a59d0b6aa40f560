"""The bounds that a generation job can give: which, of how many held-out subjects, or why none."""

from __future__ import annotations

from collections.abc import Sequence

from sadm_ray.config import GenerateSettings
from sadm_ray.errors import ConfigError
from sadm_ray.model.prediction_bounds import BoundWidths
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.recalibration import REGIONS, Recalibration, needed_subjects

BOUNDS = ("lower", "upper")


def widths_for(recalibration: Recalibration, task: str | None, level: float) -> BoundWidths | None:
    """The bounds at a level for a task; for a request that is none, the widest of all tasks.

    Returns:
        None: the model is not calibrated, or on too few subjects for this level.
    """
    if task is not None and task in recalibration.misses:
        return BoundWidths.of(task, recalibration.misses[task], level)
    known = [BoundWidths.of("", misses, level) for misses in recalibration.misses.values()]
    found = [each for each in known if each is not None]
    if not found or len(found) < len(known):
        return None
    widest = {region: max(each.widths[region] for each in found) for region in REGIONS}
    return BoundWidths(level, min(each.subjects for each in found), "", widest)


def check_bounds(wanted: GenerateSettings, models: Sequence[StoredModel]) -> None:
    """Refuse bounds that cannot be given.

    Args:
        models: with the recalibration for the sampling settings in use (`StoredModel.recalibrated`).

    Raises:
        ConfigError: bounds are wanted of one volume, of an ensemble, or of a model that is not calibrated for this.
    """
    if not set(BOUNDS) & set(wanted.estimates):
        return
    if wanted.samples < 2:
        raise ConfigError("generate.samples: bounds are made of the samples; ask for 2 or more, better 8")
    if len(models) > 1:
        raise ConfigError("generate.estimates: lower and upper are calibrated for one model, not for an ensemble")
    (model,) = models
    misses = model.recalibration.misses
    if not misses:
        raise ConfigError(
            f"generate.estimates: {model.source} is not calibrated for these sampling settings, so there is no lower "
            "and upper; run `sadm-ray calibrate`"
        )
    fewest = min(each.subjects for each in misses.values())
    if any(BoundWidths.of(task, each, wanted.level) is None for task, each in misses.items()):
        raise ConfigError(
            f"generate.level: {fewest} held-out subjects cannot show {wanted.level:g}, which takes "
            f"{needed_subjects(wanted.level)} at least; take a lower level, or hold out more (calibrate.folds)"
        )
