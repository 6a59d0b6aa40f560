"""Draw samples for requests: the bridge from rows of a shard to the model and back. No Ray here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float

from sadm_ray.config import SamplingSettings, TaskSettings
from sadm_ray.generate.request import Request, ask, sample_seed
from sadm_ray.model.sadm import Sadm


def draw(
    model: Sadm,
    rows: Mapping[str, np.ndarray],
    task: TaskSettings,
    sampling: SamplingSettings,
    samples: int,
    seed: int,
) -> tuple[list[Request], Float[np.ndarray, "b m s c d h w"]]:
    """Put `task` to every row of a batch and draw `samples` answers for each.

    Args:
        rows: columns of the shards: subject, frames (b t c d h w), present (b t), times (b t).

    Returns:
        the request of each row, and its samples in [0, 1].
    """
    device = next(model.parameters()).device
    requests = [ask(task, *row) for row in zip(rows["present"], rows["times"], strict=True)]
    seeds = [sample_seed(seed, str(subject), task.name, s) for subject in rows["subject"] for s in range(samples)]

    def repeated(arrays: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(arrays)).to(device).repeat_interleave(samples, dim=0)

    volumes = model.generate(
        repeated(rows["frames"]).float(),
        repeated([request.observed for request in requests]),
        repeated(rows["times"]),
        repeated([request.target_times for request in requests]),
        seeds,
        sampling,
    )
    return requests, rearrange(volumes, "(b s) m c d h w -> b m s c d h w", s=samples).cpu().numpy()
