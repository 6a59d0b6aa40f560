"""What a sweep scores of structures: Dice of the samples' label maps, and errors of volumes beside copy-last's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.data.label_maps import LabelMaps, PreparedLabels
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.evaluate.sampling_quality import Scores
from sadm_ray.evaluate.structure_scores import copied_labels, dice
from sadm_ray.generate.moved_structures import AllShares, ObservedStructures
from sadm_ray.generate.request import Query
from sadm_ray.model.moved_labels import fullest, share_voxels

STRUCTURE_OBJECTIVES = ("dice", "volume_error")
NO_STRUCTURES: Scores = dict.fromkeys(("dice", "copy_last_dice", "volume_off", "copy_last_volume_off"), math.nan)
"""Of a frame without label maps."""


class LabelledTruth:
    """The label maps of one subject, to score the structures of its samples.

    Args:
        row: the subject (`subject_row.parse_row`).
        files: the study's label maps (`data.label_maps.labels_of`).
    """

    def __init__(self, row: Mapping[str, Any], files: LabelFiles | None) -> None:
        self._times = row["times"]
        self._contrasts = [LabelMaps.of(of_contrast(row, channel), files) for channel in range(row["frames"].shape[1])]

    def has(self, query: Query) -> bool:
        """Whether an observed scan and a target of a query have label maps."""
        observed = np.flatnonzero(query.observed).tolist()
        return any(
            any(maps.at(slot) is not None for slot in observed)
            and any(maps.at(target) is not None for target in query.targets)
            for maps in self._contrasts
        )

    def scores(self, query: Query, structures: ObservedStructures, shares: AllShares) -> dict[int, Scores]:
        """Of each target with a label map the means over its structures.

        Returns:
            `dice`, the mean over the samples; `volume_off`, the distance of the median of the samples' volumes from the
            true one, as a part of it; and the same of the copied label map. Structures that the true one lacks are left
            out.
        """
        found = {}
        observed = np.flatnonzero(query.observed).tolist()
        for target, its in zip(query.targets, shares, strict=True):
            maps = next((maps for maps in self._contrasts if maps.at(target) is not None), None)
            truth = None if maps is None else maps.at(target)
            if maps is None or truth is None:
                continue
            copied = dict(copied_labels(maps, self._times, observed, target))
            found[target] = _scores(truth, next(iter(copied.values()), None), structures, torch.from_numpy(its))
        return found


def _scores(
    truth: PreparedLabels, copied: PreparedLabels | None, structures: ObservedStructures, shares: torch.Tensor
) -> Scores:
    labels = fullest(shares.float()).numpy()
    sizes = np.median(share_voxels(shares).numpy(), axis=0) * structures.own_voxels
    each: list[Scores] = []
    for place, name in enumerate(structures.values):
        mask, true = truth.mask(name), float(truth.volumes.get(name, 0))
        if not true:
            continue
        scores = NO_STRUCTURES | {
            "dice": float(np.mean([dice(mask, sample == place + 1) for sample in labels])),
            "volume_off": abs(float(sizes[place]) - true) / true,
        }
        if copied is not None:
            scores["copy_last_dice"] = dice(mask, copied.mask(name))
            scores["copy_last_volume_off"] = abs(float(copied.volumes.get(name, 0)) - true) / true
        each.append(scores)
    return {key: _mean([scores[key] for scores in each]) for key in NO_STRUCTURES}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
