"""The conformal correction of volumes: by what the samples' interval is multiplied, of how many subjects, or why none.

It is made of the errors that a calibrated model carries (`recalibration.VolumeErrors`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.recalibration import Recalibration, needed_subjects


class VolumeCorrection(NamedTuple):
    """By what the interval of a structure's volume is multiplied, and how many held-out subjects it is from.

    `factor` is None where they are too few for the level. `task` is that which it was fitted for; empty: it is the
    widest of all tasks, and not fitted for this request.
    """

    factor: float | None
    subjects: int
    task: str = ""

    @property
    def fitted_for(self) -> str | None:
        """The task, as a table says it; None where nothing is corrected."""
        return None if self.factor is None else self.task or OTHERS


OTHERS = "other tasks"
NOT_CORRECTED = VolumeCorrection(None, 0)
"""Of a structure of which no held-out subject had a label map."""


def corrections_for(
    recalibration: Recalibration, task: str | None, structures: Iterable[str], level: float
) -> dict[str, VolumeCorrection]:
    """The correction of each structure at a level for a task.

    For a request that is none, and for a task of whose targets no held-out subject has a label map, it is the widest of
    all tasks.
    """
    volumes, own = recalibration.volumes, "" if task is None or task not in recalibration.volumes else task
    found = {}
    for name in structures:
        known = [errors[name] for errors in ([volumes[own]] if own else volumes.values()) if name in errors]
        factors = [each.factor(level) for each in known]
        shown = [factor for factor in factors if factor is not None]
        fewest = min((each.subjects for each in known), default=0)
        factor = max(shown) if shown and len(shown) == len(known) else None
        found[name] = VolumeCorrection(factor, fewest, own)
    return found


def why_not_corrected(
    models: Sequence[StoredModel], labels: LabelFiles | None, samples: int, level: float
) -> Iterator[str]:
    """A line where volumes get no corrected interval; none where there are no label maps.

    Args:
        models: with the recalibration for the sampling settings in use (`StoredModel.recalibrated`).
        samples: of a frame.
    """
    if labels is None or not labels.found or samples < 2:
        return
    volumes = models[0].recalibration.volumes
    if len(models) > 1:
        yield "intervals of volumes are calibrated for one model, not for an ensemble: those of the samples stand alone"
    elif not any(volumes.values()):
        yield (
            f"intervals of volumes are not corrected: {models[0].source} is not calibrated on label maps for these "
            "sampling settings; run `sadm-ray calibrate` where held-out subjects have some"
        )
    else:
        yield from too_few(volumes_by_task(models[0].recalibration), level)


def volumes_by_task(recalibration: Recalibration) -> dict[str, int]:
    """Of each task how many held-out subjects with label maps there were, of the structure that the fewest have."""
    return {
        task: min(each.subjects for each in errors.values()) for task, errors in recalibration.volumes.items() if errors
    }


def too_few(subjects: Mapping[str, int], level: float) -> Iterator[str]:
    """A line for the tasks whose held-out subjects with label maps cannot show a level."""
    short = {task: count for task, count in subjects.items() if count < needed_subjects(level)}
    if short:
        task, count = min(short.items(), key=lambda each: each[1])
        yield (
            f"intervals of volumes are not corrected for {', '.join(short)}: {count} held-out subjects with label maps "
            f"({task}) cannot show generate.level={level:g}, which takes {needed_subjects(level)} at least; take a "
            "lower level, or hold out more (calibrate.folds)"
        )
