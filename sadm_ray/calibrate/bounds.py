"""How often the truth lies outside of bounds: of a subject that the model was not trained on, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sadm_ray.config import SamplingSettings, TaskSettings
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.evaluate.sampling_quality import query_of
from sadm_ray.generate.draw_samples import draw, estimate, observe
from sadm_ray.generate.request import sample_seed
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.prediction_bounds import deviation_of, regions_of
from sadm_ray.model.recalibration import REGIONS, WIDTHS, Misses

Missed = dict[str, list[float]]
"""Of each region which part of its voxels lies outside of bounds of each of `WIDTHS`; empty where it has no voxels."""


def missed_by(
    model: SequenceModel,
    row: Mapping[str, Any],
    task: TaskSettings,
    sampling: SamplingSettings,
    samples: int,
    seed: int,
) -> Missed | None:
    """Of a subject, on average over the scanned targets of a task; None where it lacks the scans for it.

    Args:
        row: the subject (`subject_row.parse_row`).
    """
    query = query_of(task, row)
    if query is None:
        return None
    encoded = observe(model, [row], [query], sampling.precision)
    predicted = estimate(model, encoded, [query], sampling)[0]
    seeds = [[sample_seed(seed, row["subject"], task.name, each) for each in range(samples)]]
    drawn = draw(model, encoded, [query], seeds, sampling)[0]
    found: dict[str, list[Float[np.ndarray, " widths"]]] = {region: [] for region in REGIONS}
    for channel in range(predicted.shape[1]):
        its = of_contrast(row, channel)
        if not (query.observed & its["present"]).any():
            continue
        for target, volume, volumes in zip(query.targets, predicted[:, channel], drawn[:, :, channel], strict=True):
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
