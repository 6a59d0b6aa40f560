"""What one generation actor does: it holds the models and runs subject jobs, a few subjects at a time."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from sadm_ray.config import SamplingSettings
from sadm_ray.data.shards.prepared_study import PREPARATION_SETTINGS, Study, read_subject
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.generate.bids_dataset import source_paths
from sadm_ray.generate.bids_names import SubjectNames, is_cine
from sadm_ray.generate.bounds_wanted import widths_for
from sadm_ray.generate.draw_samples import draw, estimate, observe
from sadm_ray.generate.generation_plan import SubjectJob
from sadm_ray.generate.generation_record import read_record, write_record
from sadm_ray.generate.request import NO_SLOT, Query, Request, sample_seed
from sadm_ray.generate.volume_writer import Predicted, SubjectWriter, shown_time
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.memory_bounds import samples_at_once
from sadm_ray.model.prediction_bounds import BoundWidths
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.storage import Storage

log = logging.getLogger(__name__)

_SAMPLES_AT_ONCE = 8
"""Samples of one subject that go through the network together when `exact`: another number, other last bits."""

Row = Mapping[str, Any]
_Asked = tuple[SubjectJob, Request, Query]
Samples = Float[np.ndarray, "m s c d h w"]


@dataclass(frozen=True)
class GenerationJob:
    """Everything that an actor needs; it carries the models, as other machines may not see their folders."""

    study: Study
    models: tuple[StoredModel, ...]
    digests: tuple[str, ...]
    out: str
    sampling: SamplingSettings
    estimates: tuple[str, ...]
    sequence: bool
    exact: bool
    batch_size: int
    device: str
    level: float = 0.9


@dataclass(frozen=True)
class _Chunk:
    """Some samples of one query, all drawn by one model (`member` of the ensemble); without seeds its estimate."""

    row: Row
    query: Query
    member: int
    seeds: tuple[int, ...]


def run_subject_jobs(subject_jobs: Sequence[SubjectJob], job: GenerationJob) -> int:
    """Generate what is requested of each subject and record it (`generation_record`); returns the number of subjects.

    A subject that fails has the reason in its record. One that was done before, by an actor that was lost, is left as
    it is.
    """
    if job.device == "cpu":
        torch.set_num_threads(1)
    out = Storage(job.out)
    left = [subject_job for subject_job in subject_jobs if not _is_done(out, subject_job)]
    rows: dict[str, Row] = {}
    records: dict[str, list[dict[str, Any]]] = {subject_job.subject: [] for subject_job in left}
    for subject_job in left:
        try:
            rows[subject_job.subject] = read_subject(job.study, subject_job.subject)
        except Exception as error:
            records[subject_job.subject] += [
                _failure(subject_job.subject, request.name, error) for request in subject_job.requests
            ]
    queries: list[_Asked] = []
    for subject_job in left:
        for request in subject_job.requests if subject_job.subject in rows else ():
            try:
                queries.append((subject_job, request, request.query(rows[subject_job.subject])))
            except ValueError as error:
                records[subject_job.subject].append(_failure(subject_job.subject, request.name, error))
    for together in _together(queries, job):  # written as they come: samples of large volumes fill the memory
        chunks = [_cut(rows[subject_job.subject], request, query, job) for subject_job, request, query in together]
        drawn = _draw_all([chunk for some in chunks for chunk in some], job)[::-1]
        for (subject_job, request, query), some in zip(together, chunks, strict=True):
            parts = [drawn.pop() for _ in some]
            try:
                records[subject_job.subject] += _write(
                    rows[subject_job.subject], subject_job, request, query, parts, job
                )
            except Exception as error:
                log.exception("subject %s, %s", subject_job.subject, request.name)
                records[subject_job.subject].append(_failure(subject_job.subject, request.name, error))
    for subject_job in left:
        write_record(
            out, subject_job.subject, subject_job.key, records[subject_job.subject], subject_job.checksum, job.digests
        )
    return len(subject_jobs)


def _is_done(out: Storage, subject_job: SubjectJob) -> bool:
    record = read_record(out, subject_job.subject)
    return record is not None and record.key == subject_job.key and not record.failed


def _together(queries: Sequence[_Asked], job: GenerationJob) -> Iterator[Sequence[_Asked]]:
    """Queries whose samples may share a network call; one by one if `exact`, and where each fills a call alone."""
    many = 1 if job.exact or samples_at_once(job.study.volume_shape) == 1 else max(len(queries), 1)
    for start in range(0, len(queries), many):
        yield queries[start : start + many]


def _cut(row: Row, request: Request, query: Query, job: GenerationJob) -> list[_Chunk]:
    """Each model's estimate, then the samples of a query in chunks that are not too large; none without targets.

    Of one volume that is requested the estimate is all.
    """
    if not query.targets:
        return []
    most = _SAMPLES_AT_ONCE if job.exact else job.batch_size
    estimates = [_Chunk(row, query, member, ()) for member in range(len(job.models))]
    return estimates + [
        _Chunk(
            row, query, member, tuple(sample_seed(request.seed, row["subject"], request.name, each) for each in some)
        )
        for member, its in enumerate(_dealt(_samples_of(request), len(job.models)))
        for some in (its[start : start + most] for start in range(0, len(its), most))
    ]


def _samples_of(request: Request) -> int:
    """How many samples are drawn; one volume that is requested is the estimate."""
    return 0 if request.samples == 1 else request.samples


def _dealt(samples: int, models: int) -> list[range]:
    """Which samples each model draws: in turn, so that the first few do not depend on how many there are."""
    return [range(member, samples, models) for member in range(models)]


def _draw_all(chunks: Sequence[_Chunk], job: GenerationJob) -> list[Samples | Exception]:
    """The samples of each chunk, or the error where there are none."""
    results: dict[int, Samples | Exception] = {}
    for places in _batches(chunks, job):
        some = [chunks[place] for place in places]
        results |= zip(places, _draw(some, job), strict=True)
    return [results[place] for place in range(len(chunks))]


def _batches(chunks: Sequence[_Chunk], job: GenerationJob) -> Iterator[list[int]]:
    """The places of chunks that go through a network together: one model, equal numbers of targets and samples."""
    alike: dict[tuple[int, int, int], list[int]] = {}
    for place, chunk in enumerate(chunks):
        alike.setdefault((chunk.member, len(chunk.query.targets), len(chunk.seeds)), []).append(place)
    for (_, _, samples), places in alike.items():
        most = min(job.batch_size, samples_at_once(job.study.volume_shape))
        many = 1 if job.exact else max(most // max(samples, 1), 1)
        for start in range(0, len(places), many):
            yield places[start : start + many]


def _draw(chunks: Sequence[_Chunk], job: GenerationJob) -> list[Samples | Exception]:
    """Draw a batch; if it fails, for lack of memory or because of one subject, draw its halves."""
    model = _model(job, chunks[0].member)
    rows, queries = [chunk.row for chunk in chunks], [chunk.query for chunk in chunks]
    try:
        encoded = observe(model, rows, queries, job.sampling.precision)
        if not chunks[0].seeds:
            return list(estimate(model, encoded, queries, job.sampling)[:, :, None])
        return list(draw(model, encoded, queries, [chunk.seeds for chunk in chunks], job.sampling))
    except Exception as error:
        if len(chunks) == 1:
            return [error]
        if job.device != "cpu":
            torch.cuda.empty_cache()
    half = len(chunks) // 2
    return _draw(chunks[:half], job) + _draw(chunks[half:], job)


def _write(
    row: Row,
    subject_job: SubjectJob,
    request: Request,
    query: Query,
    parts: Sequence[Samples | Exception],
    job: GenerationJob,
) -> list[dict[str, Any]]:
    """Write the samples of a request; returns its rows of the record."""
    failed = [part for part in parts if isinstance(part, Exception)]
    if failed:
        raise failed[0]
    if not parts:
        return []
    by_model = [sample for part in parts if not isinstance(part, Exception) for sample in part.swapaxes(0, 1)]
    models = len(job.models)
    order = np.argsort([each for its in _dealt(_samples_of(request), models) for each in its])
    samples = [by_model[models + place] for place in order]  # of each all targets; views, no copies
    estimated = np.mean(by_model[:models], axis=0)
    slots = np.flatnonzero(query.observed).tolist()
    if not np.isfinite(by_model).all():
        raise ValueError("the model gave voxels that are not finite; nothing is written of it")
    rows = []
    for channel in range(len(row["contrasts"])):
        its = of_contrast(row, channel)
        its_slots = [slot for slot in slots if its["present"][slot]]
        if its_slots:  # of a contrast that was not observed nothing is known
            volumes = np.array([sample[:, channel] for sample in samples]).reshape(-1, *estimated[:, channel].shape)
            predicted = Predicted(estimated[:, channel], volumes, _widths(request, job))
            rows += _write_contrast(its, subject_job, request, query, its_slots, predicted, job)
    return rows


def _write_contrast(
    row: Row,
    subject_job: SubjectJob,
    request: Request,
    query: Query,
    slots: Sequence[int],
    predicted: Predicted,
    job: GenerationJob,
) -> list[dict[str, Any]]:
    """Write what is predicted of one contrast, observed in `slots`; returns its rows of the record.

    Args:
        predicted: of all targets (m d h w).
    """
    (contrast,) = row["contrasts"]
    facts = {**({"Contrast": contrast} if contrast else {}), **_facts(row, request, slots, job)}
    if predicted.widths is not None:
        facts["Bounds"] = predicted.widths.in_words()
    writer = SubjectWriter(Storage(job.out), SubjectNames(row, subject_job.file_label, request.file_label), row)
    cine, times = is_cine(row, str(job.study.settings.get("layout", ""))), query.target_times.tolist()
    rows = []
    for target, (slot, time) in enumerate(zip(query.targets, times, strict=True)):
        its = Predicted(predicted.estimate[target], predicted.samples[:, target], predicted.widths)
        frame = None if slot == NO_SLOT else slot
        if not cine:
            writer.write_frame(frame, time, its, job.estimates, facts)
        kept = its if request.task is not None else None
        rows.append(_record_row(row["subject"], request.name, frame, time, slots, kept, contrast))
        rows[-1]["files"], writer.written = writer.written, []
    scanned = [(float(row["times"][slot]), row["frames"][slot, 0]) for slot in slots]
    if cine:
        writer.write_cine(scanned, times, predicted, job.estimates, facts)
    if job.sequence:
        generated = [(time, True, volume) for time, volume in zip(times, predicted.estimate, strict=True)]
        observed = [(time, False, volume) for time, volume in scanned]
        writer.write_sequence([*observed, *generated], facts, is_cine=cine)
    rows[-1]["files"] += writer.written
    return rows


def _widths(request: Request, job: GenerationJob) -> BoundWidths | None:
    """The bounds of a request's frames; None of an ensemble, of one volume, or where the model is not calibrated."""
    if len(job.models) > 1 or _samples_of(request) < 2:
        return None
    return widths_for(job.models[0].recalibration, None if request.task is None else request.name, job.level)


def _facts(row: Row, request: Request, slots: Sequence[int], job: GenerationJob) -> dict[str, Any]:
    return {
        "Subject": row["subject"],
        "Task": request.name,
        "TimeUnit": job.study.time_unit,
        "Sources": source_paths(row, slots),
        "ObservedTimes": [shown_time(row["times"][slot]) for slot in slots],
        "Seed": request.seed,
        "Checkpoint": job.digests[0] if len(job.digests) == 1 else list(job.digests),
        "Sampling": job.sampling.model_dump(mode="json"),
        "Preparation": {key: job.study.settings.get(key) for key in PREPARATION_SETTINGS},
        "Software": _versions(),
    }


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in ("sadm-ray", "torch", "nibabel")}


_built: dict[tuple[str, str], SequenceModel] = {}


def _model(job: GenerationJob, member: int) -> SequenceModel:
    """One of the models, built once an actor."""
    key = (job.digests[member], job.device)
    if key not in _built:
        for other in [other for other in _built if other[0] not in job.digests]:
            del _built[other]
        _built[key] = job.models[member].build(job.device)
        _built[key].recalibration = job.models[member].recalibration
    return _built[key]


def _record_row(
    subject: str,
    task: str,
    frame: int | None,
    time: float,
    observed: Sequence[int],
    predicted: Predicted | None,
    contrast: str = "",
) -> dict[str, Any]:
    """A row of the record (`PREDICTION_SCHEMA`), without files."""
    return {
        "subject": subject,
        "task": task,
        "contrast": contrast,
        "frame": frame,
        "time": time,
        "observed": list(observed),
        "estimate": None if predicted is None else predicted.estimate.astype("<f2").tobytes(),
        "samples": None if predicted is None else predicted.samples.astype("<f2").tobytes(),
        "bounds": None if predicted is None or predicted.widths is None else json.dumps(asdict(predicted.widths)),
        "shape": None if predicted is None else [len(predicted.samples), 1, *predicted.estimate.shape],
        "files": [],
        "error": "",
    }


def _failure(subject: str, task: str, error: Exception) -> dict[str, Any]:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return {**_record_row(subject, task, -1, float("nan"), (), None), "error": reason}
