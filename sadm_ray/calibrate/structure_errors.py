"""How far the true volumes of structures lie from those of samples: of a held-out subject, task by task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from sadm_ray.calibrate.held_out_prediction import HeldOutPrediction
from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.data.label_maps import LabelMaps, PreparedLabels
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.model.moved_labels import share_voxels
from sadm_ray.model.recalibration import VolumeErrors

LEAST_SPREAD = 1e-3
"""Of samples whose volumes do not differ; parts of their mean, which counts as a voxel at least."""


def structure_errors(
    predicted: HeldOutPrediction, row: Mapping[str, Any], labels: LabelFiles | None
) -> dict[str, float]:
    """Of each structure the largest error over the labelled targets of a task, in the spread of the samples.

    The largest, because subjects are the unit: intervals that hold it hold all of a subject's targets.

    Returns:
        nothing of a subject of whom no observed scan, or no target, has a label map.
    """
    if predicted.structures is None or predicted.shares is None:
        return {}
    found: dict[str, float] = {}
    maps = [LabelMaps.of(of_contrast(row, channel), labels) for channel in range(len(row["contrasts"]))]
    for target, shares in zip(predicted.query.targets, predicted.shares, strict=True):
        truth = _true_labels(maps, target)
        if truth is None:
            continue
        sizes = share_voxels(torch.from_numpy(shares)).numpy() * predicted.structures.own_voxels
        for name, volumes in zip(predicted.structures.values, sizes.T, strict=True):
            found[name] = max(found.get(name, 0.0), _error(float(truth.volumes.get(name, 0)), volumes))
    return found


def errors_of(subjects: Sequence[Mapping[str, float]], samples: int) -> dict[str, VolumeErrors]:
    """By structure the errors of the subjects that have it.

    Args:
        samples: that were drawn of each frame.
    """
    names = dict.fromkeys(name for each in subjects for name in each)
    errors = {name: sorted(round(each[name], 6) for each in subjects if name in each) for name in names}
    return {name: VolumeErrors(samples=samples, errors=tuple(its)) for name, its in errors.items()}


def _true_labels(maps: Sequence[LabelMaps], target: int) -> PreparedLabels | None:
    """Those of the first contrast that has some: a visit has one label map."""
    return next((labels for each in maps if (labels := each.at(target)) is not None), None)


def _error(truth: float, volumes: Float[np.ndarray, " s"]) -> float:
    """The distance from the samples' mean over what a next sample would deviate by, s √(1 + 1/S)."""
    mean = float(volumes.mean())
    spread = max(float(volumes.std(ddof=1)), LEAST_SPREAD * max(mean, 1.0))
    return abs(truth - mean) / (spread * math.sqrt(1 + 1 / len(volumes)))
