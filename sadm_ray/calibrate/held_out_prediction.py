"""The prediction of a held-out subject for a task: the estimate, samples, and the structures of the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from sadm_ray.config import SamplingSettings, TaskSettings
from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.evaluate.sampling_quality import query_of
from sadm_ray.generate.draw_samples import draw, estimate, observe
from sadm_ray.generate.moved_structures import AllShares, ObservedStructures, StructureFollower, observed_structures
from sadm_ray.generate.request import Query, sample_seed
from sadm_ray.model.base_model import SequenceModel


@dataclass(frozen=True, eq=False)
class HeldOutPrediction:
    """What is predicted of the targets of a task.

    Attributes:
        structures, shares: of the observed label maps, and as they moved in each sample; None of a subject without,
            and of a model that does not move the frames.
    """

    query: Query
    estimate: Float[np.ndarray, "m c d h w"]
    samples: Float[np.ndarray, "m s c d h w"]
    structures: ObservedStructures | None
    shares: AllShares | None


def predict_held_out(
    model: SequenceModel,
    row: Mapping[str, Any],
    task: TaskSettings,
    sampling: SamplingSettings,
    samples: int,
    seed: int,
    labels: LabelFiles | None,
) -> HeldOutPrediction | None:
    """Predict a subject; None where it lacks the scans for the task.

    Args:
        row: the subject (`subject_row.parse_row`).
        labels: the study's label maps (`data.label_maps.labels_of`).
    """
    query = query_of(task, row)
    if query is None:
        return None
    encoded = observe(model, [row], [query], sampling.precision)
    seeds = [[sample_seed(seed, row["subject"], task.name, each) for each in range(samples)]]
    structures = observed_structures(row, np.flatnonzero(query.observed).tolist(), labels)
    follower = StructureFollower(model, encoded, [structures], len(query.targets), samples)
    predicted = estimate(model, encoded, [query], sampling)[0]
    drawn = draw(model, encoded, [query], seeds, sampling, follower if structures else None)[0]
    return HeldOutPrediction(query, predicted, drawn, structures, follower.moved[0])
