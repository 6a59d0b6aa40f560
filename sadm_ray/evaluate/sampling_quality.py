"""How good a model's samples are with some sampling settings: generate frames of some subjects and compare them.

For the sweep and for validation during training, in whose processes no Ray job can be run; the whole evaluation is
`evaluation_job`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from sadm_ray.config import SamplingSettings, TaskSettings
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.evaluate.metrics import nrmse, psnr, ssim
from sadm_ray.evaluate.naive_baselines import copy_last, last_observed
from sadm_ray.generate.draw_samples import draw, observe
from sadm_ray.generate.request import Query, query_of_task, sample_seed
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.encoded_sequence import EncodedSequences
from sadm_ray.model.sequence_rollout import Follow

Scores = dict[str, float]


@dataclass(frozen=True)
class ScoredFrame:
    """One generated frame of one contrast beside the true one and the last observed one; volumes d h w in [0, 1]."""

    subject: str
    task: str
    frame: int
    truth: Float[np.ndarray, "d h w"]
    copied: Float[np.ndarray, "d h w"]
    copied_slot: int
    samples: Float[np.ndarray, "s d h w"]
    channel: int = 0

    @property
    def generated(self) -> Float[np.ndarray, "d h w"]:
        """The first sample."""
        return self.samples[0]

    def scores(self, structure: bool = False) -> Scores:
        """PSNR in dB, of the generated frame and of copy-last; with `structure` SSIM and NRMSE too (scikit-image)."""
        scores = {"psnr": psnr(self.truth, self.generated), "copy_last": psnr(self.truth, self.copied)}
        if structure:
            scores |= {"ssim": ssim(self.truth, self.generated), "nrmse": nrmse(self.truth, self.generated)}
            scores |= {
                "copy_last_ssim": ssim(self.truth, self.copied),
                "copy_last_nrmse": nrmse(self.truth, self.copied),
            }
        return scores


def generate_and_compare(
    model: SequenceModel,
    rows: Sequence[Mapping[str, Any]],
    tasks: Sequence[TaskSettings],
    sampling: SamplingSettings,
    seed: int,
) -> Iterable[ScoredFrame]:
    """One sample of every frame that is a target of the tasks and was scanned.

    Args:
        rows: the subjects (`subject_row.parse_row`). One that is too short for a task is left out of it.
    """
    for task in tasks:
        groups: dict[int, list[tuple[Mapping[str, Any], Query]]] = {}
        for row in rows:
            query = query_of(task, row)
            if query is not None:
                groups.setdefault(len(query.targets), []).append((row, query))
        for group in groups.values():
            alike, queries = zip(*group, strict=True)
            encoded = observe(model, alike, queries, sampling.precision)
            yield from generate_frames(model, encoded, alike, task, queries, sampling, seed)


def query_of(task: TaskSettings, row: Mapping[str, Any]) -> Query | None:
    """The query of a task for a subject; None when the subject lacks the scans for it."""
    try:
        return query_of_task(task, row["present"], row["times"])
    except ValueError:
        return None


def generate_frames(
    model: SequenceModel,
    encoded: EncodedSequences,
    rows: Sequence[Mapping[str, Any]],
    task: TaskSettings,
    queries: Sequence[Query],
    sampling: SamplingSettings,
    seed: int,
    samples: int = 1,
    follow: Follow | None = None,
) -> Iterable[ScoredFrame]:
    """Every target of the queries that was scanned, with `samples` draws of it; of several contrasts each by itself.

    Args:
        encoded: what `draw_samples.observe` returned for the same rows and queries.
        queries: one a row, all with the same number of targets.
        follow: is told how the frames were moved (`SequenceModel.roll_out`).
    """
    seeds = [[sample_seed(seed, row["subject"], task.name, each) for each in range(samples)] for row in rows]
    samples_of = draw(model, encoded, queries, seeds, sampling, follow)
    for row, query, drawn in zip(rows, queries, samples_of, strict=True):
        for channel in range(drawn.shape[2]):
            its = of_contrast(row, channel)
            observed = np.flatnonzero(query.observed & its["present"]).tolist()
            for target, volumes in zip(query.targets, drawn[:, :, channel], strict=True):
                if not its["present"][target] or not observed:
                    continue  # never scanned: there is no truth, or nothing to predict it from
                yield ScoredFrame(
                    subject=row["subject"],
                    task=task.name,
                    frame=target,
                    truth=its["frames"][target, 0],
                    copied=copy_last(its["frames"], observed, row["times"], target)[0],
                    copied_slot=last_observed(observed, row["times"], target),
                    samples=volumes,
                    channel=channel,
                )


def average(scored: Iterable[tuple[str, Scores]]) -> Scores:
    """Means over frames (and their contrasts) and subjects, then tasks.

    Args:
        scored: the task and the scores of each frame.

    Returns:
        each score, `gain` (dB of PSNR over copy-last) and `gain_<task>`; nothing without frames.
    """
    by_task: dict[str, list[Scores]] = {}
    for task, scores in scored:
        by_task.setdefault(task, []).append(scores)
    if not by_task:
        return {}
    means = {
        task: {key: float(np.mean([each[key] for each in frames])) for key in frames[0]}
        for task, frames in by_task.items()
    }
    whole = {key: float(np.mean([mean[key] for mean in means.values()])) for key in next(iter(means.values()))}
    gains = {f"gain_{task}": mean["psnr"] - mean["copy_last"] for task, mean in means.items()}
    return {**whole, "gain": whole["psnr"] - whole["copy_last"], **gains}


def structure_can_be_scored() -> bool:
    """Whether SSIM can be computed: scikit-image comes with the extra `eval`."""
    return importlib.util.find_spec("skimage") is not None
