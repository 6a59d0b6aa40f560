"""From shards to batches: pools of whole subjects, from which batches are drawn many times.

Reading a subject costs far more than drawing a target from it, and every pass of Ray Data costs about a second. So a
worker holds a pool of subjects in memory and draws from each `targets_per_subject` times before it reads on.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import torch

from sadm_ray.config import TrainSettings
from sadm_ray.train.step import Batch, step_seed


def draw_order(subjects: int, rounds: int, batch: int, seed: int) -> np.ndarray:
    """Which subjects make up each batch: `rounds` shuffles of the pool one after another, cut into batches.

    Every subject comes equally often, up to the remainder that fills no batch; there is always one batch at least.

    Returns:
        indices, (batches, batch).
    """
    random = np.random.default_rng(seed)
    rounds = max(rounds, -(-batch // subjects))
    order = np.concatenate([random.permutation(subjects) for _ in range(rounds)])
    return order[: len(order) // batch * batch].reshape(-1, batch)


def batches(
    shard: Any, settings: TrainSettings, batch: int, seed: int, rank: int, device: torch.device
) -> Iterator[Batch]:
    """Endless batches of `batch` sequences from this worker's part of the training shards."""
    for epoch in count():
        pools = shard.iter_batches(batch_size=settings.subjects_in_memory, batch_format="numpy", prefetch_batches=1)
        for part, pool in enumerate(pools):
            frames, present, times = (torch.from_numpy(np.array(pool[key])) for key in ("frames", "present", "times"))
            if device.type == "cuda":
                frames = frames.pin_memory()
            order = draw_order(len(frames), settings.targets_per_subject, batch, step_seed(seed, epoch, rank) + part)
            for chosen in order:
                yield Batch(
                    frames[chosen].to(device, non_blocking=True).float(),
                    present[chosen].to(device),
                    times[chosen].to(device),
                )
