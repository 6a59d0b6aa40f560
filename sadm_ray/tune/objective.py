"""What a setting of the sampler is worth: generate for validation subjects and compare with the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sadm_ray.config import SamplingSettings, TaskSettings
from sadm_ray.evaluate.floors import copy_last
from sadm_ray.evaluate.metrics import psnr
from sadm_ray.generate.draw import draw
from sadm_ray.model.sadm import Sadm


def sampling_quality(
    model: Sadm,
    rows: Mapping[str, np.ndarray],
    tasks: Sequence[TaskSettings],
    sampling: SamplingSettings,
    seed: int,
) -> dict[str, float]:
    """PSNR (dB) of one sample and of copy-last, averaged over frames, subjects and tasks.

    Args:
        rows: columns of the shards, one row a validation subject.

    Returns:
        `psnr`, `copy_last`, their difference `gain`, and `gain_<task>` for each task.
    """
    scores: dict[str, list[tuple[float, float]]] = {task.name: [] for task in tasks}
    for task in tasks:
        requests, samples = draw(model, rows, task, sampling, 1, seed)
        for row, request in enumerate(requests):
            frames = rows["frames"][row].astype(np.float32)
            for index, target in enumerate(request.targets):
                if not rows["present"][row][target]:
                    continue  # never scanned: there is no truth
                observed = np.flatnonzero(request.observed).tolist()
                floor = copy_last(frames, observed, rows["times"][row], target)
                truth = frames[target]
                scores[task.name].append((psnr(truth, samples[row, index, 0]), psnr(truth, floor)))
    means = {name: np.mean(pairs, axis=0) for name, pairs in scores.items() if pairs}
    generated, copied = np.mean(list(means.values()), axis=0)
    gains = {f"gain_{name}": float(mean[0] - mean[1]) for name, mean in means.items()}
    return {"psnr": float(generated), "copy_last": float(copied), "gain": float(generated - copied), **gains}
