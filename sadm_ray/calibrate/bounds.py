"""How often the truth lies outside of bounds: of a subject that the model was not trained on, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sadm_ray.calibrate.held_out_prediction import HeldOutPrediction
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.model.prediction_bounds import deviation_of, regions_of
from sadm_ray.model.recalibration import REGIONS, WIDTHS, Misses

Missed = dict[str, list[float]]
"""Of each region which part of its voxels lies outside of bounds of each of `WIDTHS`; empty where it has no voxels."""


def missed_by(predicted: HeldOutPrediction, row: Mapping[str, Any]) -> Missed | None:
    """Of a subject, on average over the scanned targets of a task; None where there are none.

    Args:
        row: the subject (`subject_row.parse_row`).
    """
    query, estimate, drawn = predicted.query, predicted.estimate, predicted.samples
    found: dict[str, list[Float[np.ndarray, " widths"]]] = {region: [] for region in REGIONS}
    for channel in range(estimate.shape[1]):
        its = of_contrast(row, channel)
        if not (query.observed & its["present"]).any():
            continue
        for target, volume, volumes in zip(query.targets, estimate[:, channel], drawn[:, :, channel], strict=True):
            if its["present"][target]:
                missed = _missed(its["frames"][target, 0], volume, deviation_of(volumes))
                for region, parts in missed.items():
                    found[region].append(parts)
    if not any(found.values()):
        return None
    return {region: np.mean(parts, axis=0).tolist() if parts else [] for region, parts in found.items()}


def misses_of(subjects: Sequence[Missed]) -> Misses:
    """The mean over subjects; one without voxels of a region misses none there."""
    means = {region: np.mean([each[region] or [0.0] * len(WIDTHS) for each in subjects], axis=0) for region in REGIONS}
    return Misses(
        subjects=len(subjects), missed={region: tuple(np.round(mean, 6).tolist()) for region, mean in means.items()}
    )


def _missed(
    truth: Float[np.ndarray, "d h w"], predicted: Float[np.ndarray, "d h w"], deviation: Float[np.ndarray, "d h w"]
) -> dict[str, Float[np.ndarray, " widths"]]:
    apart = np.abs(truth - predicted) / deviation
    missed = {}
    for region, voxels in regions_of(deviation).items():
        if voxels.any():
            values = np.sort(apart[voxels])
            missed[region] = 1.0 - np.searchsorted(values, WIDTHS, side="right") / len(values)
    return missed
