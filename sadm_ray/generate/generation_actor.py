"""What one generation actor does: it holds the models and runs subject jobs, a few subjects at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sadm_ray.data.shards.prepared_study import read_subject
from sadm_ray.generate.actor_job import Drawn, GenerationJob, dealt, samples_of
from sadm_ray.generate.answer_writer import failure_row, write_answer
from sadm_ray.generate.draw_samples import draw, estimate, observe
from sadm_ray.generate.generation_plan import SubjectJob
from sadm_ray.generate.generation_record import read_record, write_record
from sadm_ray.generate.moved_structures import ObservedStructures, StructureFollower, observed_structures
from sadm_ray.generate.request import Query, Request
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.memory_bounds import samples_at_once
from sadm_ray.storage import Storage

log = logging.getLogger(__name__)

_SAMPLES_AT_ONCE = 8
"""Samples of one subject that go through the network together when `exact`: another number, other last bits."""

Row = Mapping[str, Any]
_Asked = tuple[SubjectJob, Request, Query]


@dataclass(frozen=True)
class _Chunk:
    """Some samples of one query, all drawn by one model (`member` of the ensemble); without seeds its estimate."""

    row: Row
    query: Query
    member: int
    seeds: tuple[int, ...]
    structures: ObservedStructures | None


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
                failure_row(subject_job.subject, request.name, error) for request in subject_job.requests
            ]
    queries: list[_Asked] = []
    for subject_job in left:
        for request in subject_job.requests if subject_job.subject in rows else ():
            try:
                queries.append((subject_job, request, request.query(rows[subject_job.subject])))
            except ValueError as error:
                records[subject_job.subject].append(failure_row(subject_job.subject, request.name, error))
    for together in _together(queries, job):  # written as they come: samples of large volumes fill the memory
        chunks = [_cut(rows[subject_job.subject], request, query, job) for subject_job, request, query in together]
        drawn = _draw_all([chunk for some in chunks for chunk in some], job)[::-1]
        for (subject_job, request, query), some in zip(together, chunks, strict=True):
            parts = [drawn.pop() for _ in some]
            try:
                records[subject_job.subject] += write_answer(
                    rows[subject_job.subject], subject_job, request, query, parts, job
                )
            except Exception as error:
                log.exception("subject %s, %s", subject_job.subject, request.name)
                records[subject_job.subject].append(failure_row(subject_job.subject, request.name, error))
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
    structures = observed_structures(row, np.flatnonzero(query.observed).tolist(), job.labels)
    estimates = [_Chunk(row, query, member, (), structures) for member in range(len(job.models))]
    return estimates + [
        _Chunk(
            row,
            query,
            member,
            tuple(request.sample_seed(row["subject"], each) for each in some),
            structures,
        )
        for member, its in enumerate(dealt(samples_of(request), len(job.models)))
        for some in (its[start : start + most] for start in range(0, len(its), most))
    ]


def _draw_all(chunks: Sequence[_Chunk], job: GenerationJob) -> list[Drawn | Exception]:
    """The samples of each chunk, or the error where there are none."""
    results: dict[int, Drawn | Exception] = {}
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


def _draw(chunks: Sequence[_Chunk], job: GenerationJob) -> list[Drawn | Exception]:
    """Draw a batch; if it fails, for lack of memory or because of one subject, draw its halves."""
    model = _model(job, chunks[0].member)
    rows, queries = [chunk.row for chunk in chunks], [chunk.query for chunk in chunks]
    try:
        encoded = observe(model, rows, queries, job.sampling.precision)
        structures, samples = [chunk.structures for chunk in chunks], max(len(chunks[0].seeds), 1)
        follower = StructureFollower(model, encoded, structures, len(queries[0].targets), samples)
        follow = follower if any(structures) else None
        if chunks[0].seeds:
            seeds = [chunk.seeds for chunk in chunks]
            volumes = draw(model, encoded, queries, seeds, job.sampling, follow)
        else:
            volumes = estimate(model, encoded, queries, job.sampling, follow)[:, :, None]
        return [Drawn(*each) for each in zip(volumes, follower.moved, structures, strict=True)]
    except Exception as error:
        if len(chunks) == 1:
            return [error]
        if job.device != "cpu":
            torch.cuda.empty_cache()
    half = len(chunks) // 2
    return _draw(chunks[:half], job) + _draw(chunks[half:], job)


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
