"""The objectives of the sweep: scores of one subject, and their means over subjects and tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from sadm_ray.evaluate.calibration import ensemble_variance_and_error, fair_crps
from sadm_ray.evaluate.metrics import nrmse, psnr, ssim
from sadm_ray.evaluate.sampling_quality import ScoredFrame, Scores, structure_can_be_scored
from sadm_ray.evaluate.structure_objectives import NO_STRUCTURES

OBJECTIVES = {
    "crps": ("min", 0.0002),
    "gain": ("max", 0.01),
    "gain_changed": ("max", 0.01),
    "ssim": ("max", 0.001),
    "nrmse_changed": ("min", 0.001),
    "calibration": ("min", 0.01),
    "dice": ("max", 0.002),
    "volume_error": ("min", 0.01),
    "network_calls": ("min", 0.0),
}
"""Of each objective whether more or less is better, and the largest difference that does not count."""


def score_frame(frame: ScoredFrame, region: Bool[np.ndarray, "d h w"]) -> Scores:
    """All scores of one frame.

    Args:
        region: the subject's changed region (`metrics.changed_region`); without voxels, its scores are NaN.

    Returns:
        `psnr`, `copy_last` (dB) and the same `_changed`; `nrmse_changed`: the root mean square error over that of the
        truth, both in the region; `ssim` if scikit-image is installed; with two samples or more `crps`
        (`calibration.fair_crps`), `variance` and `error`, see `calibration.ensemble_variance_and_error`.
    """
    truth, generated = frame.truth, frame.generated
    scores = frame.scores() | {
        "psnr_changed": psnr(truth, generated, region),
        "copy_last_changed": psnr(truth, frame.copied, region),
        "nrmse_changed": nrmse(truth, generated, region),
    }
    if structure_can_be_scored():
        scores["ssim"] = ssim(truth, generated)
    if len(frame.samples) > 1:
        variance, error = ensemble_variance_and_error(truth[region], frame.samples[:, region])
        crps = fair_crps(truth[region], frame.samples[:, region])
        scores |= {"variance": variance, "error": error, "crps": crps}
    return scores


def score_subject(
    frames: Iterable[tuple[ScoredFrame, Bool[np.ndarray, "d h w"]]],
    structures: Mapping[tuple[str, int], Scores] | None = None,
) -> dict[str, Scores]:
    """Of each task the means over the subject's frames, each given with the changed region.

    Args:
        structures: by task and slot the scores of label maps (`structure_objectives`); None: they are not wanted.
    """
    by_task: dict[str, list[Scores]] = {}
    for frame, region in frames:
        scores = score_frame(frame, region)
        if structures is not None:
            scores |= structures.get((frame.task, frame.frame), NO_STRUCTURES)
        by_task.setdefault(frame.task, []).append(scores)
    return {task: _means(scores) for task, scores in by_task.items()}


def summarise(subjects: Iterable[Mapping[str, Scores]]) -> Scores:
    """The means of `score_subject`'s results, over subjects and then tasks; NaN is left out.

    Returns:
        every score and `gain`, `gain_changed`: dB of PSNR over copy-last; `gain.<task>`; with two samples or more
        `spread_ratio`, the samples' spread over their error (1 is ideal, less is overconfident; the geometric mean over
        tasks), and `calibration`, the mean over tasks of |log2 spread_ratio|; with label maps `volume_error`, the mean
        error of volumes over copy-last's. Empty without subjects.
    """
    by_task: dict[str, list[Scores]] = {}
    for subject in subjects:
        for task, scores in subject.items():
            by_task.setdefault(task, []).append(scores)
    if not by_task:
        return {}
    tasks = {task: _means(scores) for task, scores in by_task.items()}
    whole = _means(list(tasks.values()))
    whole |= {
        "gain": whole["psnr"] - whole["copy_last"],
        "gain_changed": whole["psnr_changed"] - whole["copy_last_changed"],
        **{f"gain.{task}": mean["psnr"] - mean["copy_last"] for task, mean in tasks.items()},
    }
    if "variance" in whole:
        logs = [_log_ratio(mean["variance"], mean["error"]) for mean in tasks.values()]
        whole |= {"calibration": _mean([abs(log) for log in logs]), "spread_ratio": 2.0 ** _mean(logs)}
        del whole["variance"], whole["error"]
    if "volume_off" in whole:
        copied = whole["copy_last_volume_off"]
        whole["volume_error"] = whole["volume_off"] / copied if copied else math.nan
    return whole


def _log_ratio(variance: float, error: float) -> float:
    """log2 of the root of their ratio, at most 20 either way: samples that are all equal have no spread."""
    if not (variance > 0 and error > 0):
        return math.nan if math.isnan(variance + error) or variance == error else math.copysign(20.0, variance - error)
    return float(np.clip(0.5 * math.log2(variance / error), -20.0, 20.0))


def _means(scores: Sequence[Scores]) -> Scores:
    return {key: _mean([each[key] for each in scores]) for key in scores[0]}


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
