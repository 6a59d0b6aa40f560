"""What a setting of the sampler is worth: generate for validation subjects and compare with the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sadm_ray.config import SamplingSettings, TaskSettings
from sadm_ray.evaluate.floors import copy_last
from sadm_ray.evaluate.metrics import psnr
from sadm_ray.generate.draw import draw
from sadm_ray.generate.request import ask
from sadm_ray.model.sadm import Sadm


def sampling_quality(
    model: Sadm,
    rows: Sequence[Mapping[str, Any]],
    tasks: Sequence[TaskSettings],
    sampling: SamplingSettings,
    seed: int,
) -> dict[str, float]:
    """PSNR (dB) of one sample and of copy-last, averaged over frames, subjects and tasks.

    Args:
        rows: the validation subjects (`sadm_ray.data.rows.parse_row`). One that is too short for a task has no part
            in it.

    Returns:
        `psnr`, `copy_last`, their difference `gain`, and `gain_<task>` for each task.
    """
    scores: dict[str, list[tuple[float, float]]] = {task.name: [] for task in tasks}
    for task in tasks:
        for alike in _askable(task, rows):
            requests, samples = draw(model, alike, task, sampling, 1, seed)
            for row, request, drawn in zip(alike, requests, samples, strict=True):
                for target, volume in zip(request.targets, drawn[:, 0], strict=True):
                    if not row["present"][target]:
                        continue  # never scanned: there is no truth
                    observed = np.flatnonzero(request.observed).tolist()
                    floor = copy_last(row["frames"], observed, row["times"], target)
                    truth = row["frames"][target]
                    scores[task.name].append((psnr(truth, volume), psnr(truth, floor)))
    means = {name: np.mean(pairs, axis=0) for name, pairs in scores.items() if pairs}
    generated, copied = np.mean(list(means.values()), axis=0)
    gains = {f"gain_{name}": float(mean[0] - mean[1]) for name, mean in means.items()}
    return {"psnr": float(generated), "copy_last": float(copied), "gain": float(generated - copied), **gains}


def _askable(task: TaskSettings, rows: Sequence[Mapping[str, Any]]) -> Iterable[list[Mapping[str, Any]]]:
    """The rows that can be asked, in groups of as many targets."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        try:
            count = len(ask(task, row["present"], row["times"]).targets)
        except ValueError:
            continue
        groups.setdefault(count, []).append(row)
    return groups.values()
