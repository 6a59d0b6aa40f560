"""Draw samples for requests: the bridge from rows of a shard to the model and back. No Ray here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float

from sadm_ray.config import SamplingSettings, TaskSettings
from sadm_ray.data.batch import stack
from sadm_ray.generate.request import Request, ask, sample_seed
from sadm_ray.model.sadm import Sadm


def draw(
    model: Sadm,
    rows: Sequence[Mapping[str, Any]],
    task: TaskSettings,
    sampling: SamplingSettings,
    samples: int,
    seed: int,
) -> tuple[list[Request], Float[np.ndarray, "b m s c d h w"]]:
    """Put `task` to every row of a batch and draw `samples` answers for each.

    Args:
        rows: subjects (`sadm_ray.data.rows.parse_row`), of any number of slots.

    Returns:
        the request of each row, and its samples in [0, 1].
    """
    device = next(model.parameters()).device
    requests = [ask(task, row["present"], row["times"]) for row in rows]
    sequences = stack(rows, model.config.model.covariates)
    observed = np.zeros_like(sequences.present)
    for mask, request in zip(observed, requests, strict=True):
        mask[: len(request.observed)] = request.observed
    seeds = [sample_seed(seed, subject, task.name, s) for subject in sequences.subjects for s in range(samples)]

    def repeated(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device).repeat_interleave(samples, dim=0)

    known = [None if each is None else repeated(each) for each in (sequences.covariates, sequences.visit_covariates)]
    volumes = model.generate(
        repeated(sequences.frames),
        repeated(observed),
        repeated(sequences.times),
        repeated(np.stack([request.target_times for request in requests])),
        seeds,
        sampling,
        *known,
    )
    return requests, rearrange(volumes, "(b s) m c d h w -> b m s c d h w", s=samples).cpu().numpy()
