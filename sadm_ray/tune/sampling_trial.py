"""What one trial does in its actor: draw the validation subjects one after another, and tell how it goes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from ray import tune

from sadm_ray.config import SamplingSettings, TaskSettings, TuneSettings
from sadm_ray.evaluate.metrics import changed_region
from sadm_ray.evaluate.sampling_quality import generate_frames, query_of
from sadm_ray.evaluate.sweep_objectives import score_subject, summarise
from sadm_ray.generate.draw_samples import observe
from sadm_ray.generate.request import Query
from sadm_ray.model.encoded_sequence import EncodedSequences
from sadm_ray.model.pretrained import load_model
from sadm_ray.model.sequence_model import SequenceModel
from sadm_ray.tune.json_lines import JsonLines
from sadm_ray.tune.sampling_space import chosen_sampling, point_of

CONTEXT_BYTES = 1 << 30
"""The most that one actor keeps of what the conditioner made of the subjects."""


@dataclass(frozen=True)
class SamplingTask:
    """Everything that the trials of a sweep have in common.

    `scores` is the folder where what was scored is kept; `rows` are the subjects in the order in which all trials see
    them.
    """

    model: Path
    scores: Path
    rows: Sequence[Mapping[str, Any]]
    tasks: tuple[TaskSettings, ...]
    base: SamplingSettings
    tune: TuneSettings
    seed: int


def sampling_trial(config: dict[str, Any], work: SamplingTask) -> None:
    """The trainable: reports the means over the subjects so far, after each rung and at the end."""
    torch.set_num_threads(1)
    sampling = chosen_sampling(point_of(config), work.base)
    calls = _model(work.model, sampling.ema).network_calls(sampling)
    stops = rungs(work.tune, len(work.rows))
    seen: list[dict[str, Any]] = []
    for count, row in enumerate(work.rows, 1):
        seen.append(scored(row, sampling, work))
        if count in stops:
            seconds = sum(each["seconds"] for each in seen)
            means = summarise(each["tasks"] for each in seen)
            tune.report({**means, "network_calls": calls, "subjects": count, "seconds": seconds})


def rungs(settings: TuneSettings, subjects: int) -> list[int]:
    """After how many subjects a trial is judged; the last is all of them."""
    stops = []
    if settings.reduction is not None:
        count = settings.first_subjects
        while count < subjects:
            stops.append(count)
            count *= settings.reduction
    return [*stops, subjects]


def scored(row: Mapping[str, Any], sampling: SamplingSettings, work: SamplingTask) -> dict[str, Any]:
    """One subject's scores by task, computed unless they are on disk from this trial or another of the same settings.

    Returns:
        `subject`, `tasks` (`evaluate.objectives.score_subject`) and the `seconds` that it took.
    """
    journal = JsonLines(work.scores / f"{_digest(sampling)}.jsonl")
    for entry in journal.entries():
        if entry["subject"] == row["subject"]:
            return entry
    start = time.perf_counter()
    tasks = _evaluate(row, sampling, work)
    entry = {"subject": row["subject"], "tasks": tasks, "seconds": time.perf_counter() - start}
    journal.append(entry)
    return entry


def _evaluate(row: Mapping[str, Any], sampling: SamplingSettings, work: SamplingTask) -> dict[str, dict[str, float]]:
    model = _model(work.model, sampling.ema)
    region = changed_region(row["frames"][:, 0], row["present"])
    frames = []
    for task in work.tasks:
        query = query_of(task, row)
        if query is None:
            continue
        encoded = _encode(model, row, task, query, sampling, work)
        answers = generate_frames(model, encoded, [row], task, [query], sampling, work.seed, work.tune.samples)
        frames += [(each, region) for each in answers]
    return score_subject(frames)


@lru_cache(maxsize=2)
def _model(folder: Path, ema: float | None) -> SequenceModel:
    """Loaded once an actor, not once a trial."""
    return load_model(folder, ema=ema)


_encoded: dict[tuple[Any, ...], EncodedSequences] = {}


def _encode(
    model: SequenceModel,
    row: Mapping[str, Any],
    task: TaskSettings,
    query: Query,
    sampling: SamplingSettings,
    work: SamplingTask,
) -> EncodedSequences:
    """What the conditioner makes of a subject: the same for all trials of an actor, hence kept while there is room.

    The first ones stay: every trial comes by all subjects in one order, and of a cache that lets go of the oldest it
    would never find one.
    """
    key = (work.model, sampling.ema, sampling.precision, row["subject"], task)
    if key not in _encoded:
        encoded = observe(model, [row], [query], sampling.precision)
        if sum(map(_size, _encoded.values())) + _size(encoded) > CONTEXT_BYTES:
            return encoded
        _encoded[key] = encoded
    return _encoded[key]


def _size(encoded: EncodedSequences) -> int:
    return sum(tensor.nbytes for tensor in (encoded.frames, *encoded.features))


def _digest(sampling: SamplingSettings) -> str:
    """Names what the scores depend on: whether guidance is split changes its memory only."""
    told = sampling.model_dump_json(exclude={"guidance_split"})
    return hashlib.sha256(told.encode()).hexdigest()[:16]
