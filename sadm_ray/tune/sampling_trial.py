"""A trial of the sampling sweep, in its actor: scores the validation subjects one after another and reports."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from sadm_ray.config import SamplingSettings, TaskSettings, TuneSettings
from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.evaluate.metrics import changed_region
from sadm_ray.evaluate.sampling_quality import Scores, generate_frames, query_of
from sadm_ray.evaluate.structure_objectives import LabelledTruth
from sadm_ray.evaluate.sweep_objectives import score_subject, summarise
from sadm_ray.generate.draw_samples import observe
from sadm_ray.generate.moved_structures import StructureFollower, observed_structures
from sadm_ray.generate.request import Query
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.encoded_sequence import EncodedSequences
from sadm_ray.model.pretrained import load_model
from sadm_ray.tune.json_lines import JsonLines
from sadm_ray.tune.sampling_space import point_of, trial_sampling

ENCODED_CACHE_BYTES = 1 << 30
"""Limit of an actor's cache of encoded sequences."""


@dataclass(frozen=True)
class SamplingTask:
    """What the trials of a sweep have in common.

    `scores` is the folder of the scores that were computed; `rows` are the subjects in the order of all trials;
    `labels` the study's label maps, None where no objective is of structures.
    """

    model: Path
    scores: Path
    rows: Sequence[Mapping[str, Any]]
    tasks: tuple[TaskSettings, ...]
    base: SamplingSettings
    tune: TuneSettings
    seed: int
    labels: LabelFiles | None = None


def sampling_trial(config: dict[str, Any], sampling_task: SamplingTask) -> None:
    """Ray Tune's trainable: reports the means over the subjects so far, after each rung and at the end."""
    torch.set_num_threads(1)
    sampling = trial_sampling(point_of(config), sampling_task.base)
    calls = _model(sampling_task.model, sampling.ema).network_calls(sampling)
    rung_subjects = rungs(sampling_task.tune, len(sampling_task.rows))
    entries: list[dict[str, Any]] = []
    for count, row in enumerate(sampling_task.rows, 1):
        entries.append(subject_scores(row, sampling, sampling_task))
        if count in rung_subjects:
            seconds = sum(entry["seconds"] for entry in entries)
            means = summarise(entry["tasks"] for entry in entries)
            if means:  # the first subjects may lack the frames of every task
                tune.report({**means, "network_calls": calls, "subjects": count, "seconds": seconds})


def rungs(settings: TuneSettings, subjects: int) -> list[int]:
    """The numbers of subjects after which a trial may be stopped; the last is all of them."""
    rung_subjects = []
    if settings.reduction is not None:
        count = settings.first_subjects
        while count < subjects:
            rung_subjects.append(count)
            count *= settings.reduction
    return [*rung_subjects, subjects]


def subject_scores(row: Mapping[str, Any], sampling: SamplingSettings, sampling_task: SamplingTask) -> dict[str, Any]:
    """The scores of one subject by task, read from disk if a trial with the same settings has computed them.

    Returns:
        `subject`, `tasks` (`evaluate.sweep_objectives.score_subject`) and the `seconds` that it took.
    """
    journal = JsonLines(sampling_task.scores / f"{_digest(sampling)}.jsonl")
    for entry in journal.entries():
        if entry["subject"] == row["subject"]:
            return entry
    start = time.perf_counter()
    tasks = _evaluate(row, sampling, sampling_task)
    entry = {"subject": row["subject"], "tasks": tasks, "seconds": time.perf_counter() - start}
    journal.append(entry)
    return entry


def _evaluate(
    row: Mapping[str, Any], sampling: SamplingSettings, sampling_task: SamplingTask
) -> dict[str, dict[str, float]]:
    model = _model(sampling_task.model, sampling.ema)
    contrasts = [of_contrast(row, channel) for channel in range(row["frames"].shape[1])]
    regions = {
        channel: changed_region(its["frames"][:, 0], its["present"])
        for channel, its in enumerate(contrasts)
        if its["present"].any()
    }
    frames = []
    truth = None if sampling_task.labels is None else LabelledTruth(row, sampling_task.labels)
    of_structures: dict[tuple[str, int], Scores] = {}
    for task in sampling_task.tasks:
        query = query_of(task, row)
        if query is None:
            continue
        encoded = _encode(model, row, task, query, sampling, sampling_task)
        seed, samples = sampling_task.seed, sampling_task.tune.samples
        structures = observed_structures(row, np.flatnonzero(query.observed).tolist(), sampling_task.labels)
        follower = StructureFollower(model, encoded, [structures], len(query.targets), samples)
        follow = None if structures is None else follower
        generated = generate_frames(model, encoded, [row], task, [query], sampling, seed, samples, follow)
        frames += [(each, regions[each.channel]) for each in generated]
        (shares,) = follower.moved
        if truth is not None and structures is not None and shares is not None:
            found = truth.scores(query, structures, shares)
            of_structures |= {(task.name, target): scores for target, scores in found.items()}
    return score_subject(frames, None if truth is None else of_structures)


@lru_cache(maxsize=2)
def _model(folder: Path, ema: float | None) -> SequenceModel:
    """Loaded once per actor, not per trial."""
    return load_model(folder, ema=ema)


_encoded_cache: dict[tuple[Any, ...], EncodedSequences] = {}


def _encode(
    model: SequenceModel,
    row: Mapping[str, Any],
    task: TaskSettings,
    query: Query,
    sampling: SamplingSettings,
    sampling_task: SamplingTask,
) -> EncodedSequences:
    """The encoded sequence of a subject, which is the same for all trials and cached while there is room.

    The first entries stay: all trials go through the subjects in the same order, so that a cache without room for all
    would never be hit if it dropped the oldest.
    """
    key = (sampling_task.model, sampling.ema, sampling.precision, row["subject"], task)
    if key not in _encoded_cache:
        encoded = observe(model, [row], [query], sampling.precision)
        if sum(map(_size, _encoded_cache.values())) + _size(encoded) > ENCODED_CACHE_BYTES:
            return encoded
        _encoded_cache[key] = encoded
    return _encoded_cache[key]


def _size(encoded: EncodedSequences) -> int:
    return sum(tensor.nbytes for tensor in (encoded.frames, *encoded.features))


def _digest(sampling: SamplingSettings) -> str:
    """A digest of the settings that change the scores; whether guidance is split changes memory only."""
    text = sampling.model_dump_json(exclude={"guidance_split"})
    return hashlib.sha256(text.encode()).hexdigest()[:16]
