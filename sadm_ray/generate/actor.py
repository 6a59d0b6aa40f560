"""What one generation actor does: it holds the model and answers orders, a few subjects at a time."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from sadm_ray.config import SamplingSettings
from sadm_ray.data.storage import Storage
from sadm_ray.data.study import PREPARED, Study, read_subject
from sadm_ray.generate.draw import draw, observe
from sadm_ray.generate.plan import Order
from sadm_ray.generate.record import read_record, write_record
from sadm_ray.generate.request import NO_SLOT, Request, Wish, sample_seed
from sadm_ray.generate.writer import Home, frame_label
from sadm_ray.model.sequence_model import SequenceModel
from sadm_ray.model.stored import StoredModel

log = logging.getLogger(__name__)

_TOGETHER = 8
"""Samples of one subject that go through the network together when `exact`: a number that decides the last bits."""

Row = Mapping[str, Any]
Samples = Float[np.ndarray, "m s c d h w"]


@dataclass(frozen=True)
class Job:
    """Everything that an actor needs to know; the models with it, whose folders no other machine may see."""

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


@dataclass(frozen=True)
class _Piece:
    """Some samples of one request, all of one model."""

    row: Row
    request: Request
    member: int
    seeds: tuple[int, ...]


def answer(orders: Sequence[Order], job: Job) -> int:
    """Answer orders and record each subject (`sadm_ray.generate.record`); returns how many subjects were at work.

    A subject that fails has its reason in its record. One that was answered before, by an actor that was lost, is left
    as it is.
    """
    if job.device == "cpu":
        torch.set_num_threads(1)
    out = Storage(job.out)
    left = [order for order in orders if not _is_done(out, order)]
    rows: dict[str, Row] = {}
    told: dict[str, list[dict[str, Any]]] = {order.subject: [] for order in left}
    for order in left:
        try:
            rows[order.subject] = read_subject(job.study, order.subject)
        except Exception as error:
            told[order.subject] += [_failure(order.subject, wish.name, error) for wish in order.wishes]
    asked: list[tuple[Order, Wish, Request]] = []
    for order in left:
        for wish in order.wishes if order.subject in rows else ():
            try:
                asked.append((order, wish, wish.ask(rows[order.subject])))
            except ValueError as error:
                told[order.subject].append(_failure(order.subject, wish.name, error))
    pieces = [_cut(rows[order.subject], wish, request, job) for order, wish, request in asked]
    drawn = iter(_draw_all([piece for some in pieces for piece in some], job))
    for (order, wish, request), some in zip(asked, pieces, strict=True):
        parts = [next(drawn) for _ in some]
        try:
            told[order.subject] += _write(rows[order.subject], wish, request, parts, job)
        except Exception as error:
            log.exception("subject %s, %s", order.subject, wish.name)
            told[order.subject].append(_failure(order.subject, wish.name, error))
    for order in left:
        write_record(out, order.subject, order.key, told[order.subject])
    return len(orders)


def _is_done(out: Storage, order: Order) -> bool:
    record = read_record(out, order.subject)
    return record is not None and record.key == order.key and not record.failed


def _cut(row: Row, wish: Wish, request: Request, job: Job) -> list[_Piece]:
    """A request in pieces that are not too large; nothing where nothing is wanted."""
    if not request.targets:
        return []
    most = _TOGETHER if job.exact else job.batch_size
    return [
        _Piece(row, request, member, tuple(sample_seed(wish.seed, row["subject"], wish.name, each) for each in some))
        for member, its in enumerate(_dealt(wish.samples, len(job.models)))
        for some in (its[start : start + most] for start in range(0, len(its), most))
    ]


def _dealt(samples: int, models: int) -> list[range]:
    """Which samples are drawn by each model: in turn, so that the first few are the same of however many."""
    return [range(member, samples, models) for member in range(models)]


def _draw_all(pieces: Sequence[_Piece], job: Job) -> list[Samples | Exception]:
    """The samples of each piece, or why there are none."""
    results: dict[int, Samples | Exception] = {}
    for places in _batches(pieces, job):
        some = [pieces[place] for place in places]
        results |= zip(places, _draw(some, job), strict=True)
    return [results[place] for place in range(len(pieces))]


def _batches(pieces: Sequence[_Piece], job: Job) -> Iterator[list[int]]:
    """The places of pieces that go through a network together: of as many targets and samples each."""
    alike: dict[tuple[int, int, int], list[int]] = {}
    for place, piece in enumerate(pieces):
        alike.setdefault((piece.member, len(piece.request.targets), len(piece.seeds)), []).append(place)
    for (_, _, samples), places in alike.items():
        many = 1 if job.exact else max(job.batch_size // samples, 1)
        for start in range(0, len(places), many):
            yield places[start : start + many]


def _draw(pieces: Sequence[_Piece], job: Job) -> list[Samples | Exception]:
    """Draw a batch; where it fails, be it for memory or for one subject, draw its halves."""
    model = _model(job, pieces[0].member)
    rows, requests = [piece.row for piece in pieces], [piece.request for piece in pieces]
    try:
        context = observe(model, rows, requests, job.sampling.precision)
        return list(draw(model, context, requests, [piece.seeds for piece in pieces], job.sampling))
    except Exception as error:
        if len(pieces) == 1:
            return [error]
        if job.device != "cpu":
            torch.cuda.empty_cache()
    half = len(pieces) // 2
    return _draw(pieces[:half], job) + _draw(pieces[half:], job)


def _write(
    row: Row, wish: Wish, request: Request, parts: Sequence[Samples | Exception], job: Job
) -> list[dict[str, Any]]:
    """Write what was drawn for a request; returns its rows of the record."""
    failed = [part for part in parts if isinstance(part, Exception)]
    if failed:
        raise failed[0]
    if not parts:
        return []
    by_model = np.concatenate([part for part in parts if not isinstance(part, Exception)], axis=1)
    samples = by_model[:, np.argsort([each for its in _dealt(wish.samples, len(job.models)) for each in its])]
    slots = np.flatnonzero(request.observed).tolist()
    facts = _facts(row, wish, slots, job)
    home = Home(Storage(job.out), wish.name, row)
    told = []
    for slot, time, volumes in zip(request.targets, request.target_times.tolist(), samples, strict=True):
        frame = None if slot == NO_SLOT else slot
        here = {"Frame": frame, "Time": round(time, 4), **facts}
        home.write_frame(frame_label(frame, round(time, 4)), volumes[:, 0], job.estimates, here)
        kept = volumes if wish.task is not None else None
        told.append(_told(row["subject"], wish.name, frame, time, slots, kept))
        told[-1]["files"], home.written = home.written, []
    if job.sequence:
        made = zip(request.target_times.tolist(), samples[:, 0, 0], strict=True)
        scanned = [(float(row["times"][slot]), False, row["frames"][slot, 0]) for slot in slots]
        home.write_sequence([*scanned, *((time, True, volume) for time, volume in made)], facts)
        told[-1]["files"] += home.written
    return told


def _facts(row: Row, wish: Wish, slots: Sequence[int], job: Job) -> dict[str, Any]:
    return {
        "Subject": row["subject"],
        "Task": wish.name,
        "TimeUnit": job.study.time_unit,
        "ObservedTimes": [round(float(row["times"][slot]), 4) for slot in slots],
        "Seed": wish.seed,
        "Checkpoint": job.digests[0] if len(job.digests) == 1 else list(job.digests),
        "Sampling": job.sampling.model_dump(mode="json"),
        "Preparation": {key: job.study.settings.get(key) for key in PREPARED},
        "Software": _versions(),
    }


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in ("sadm-ray", "torch", "nibabel")}


_built: dict[tuple[str, str], SequenceModel] = {}


def _model(job: Job, member: int) -> SequenceModel:
    """Built once an actor."""
    key = (job.digests[member], job.device)
    if key not in _built:
        for other in [other for other in _built if other[0] not in job.digests]:
            del _built[other]
        _built[key] = job.models[member].build(job.device)
    return _built[key]


def _told(
    subject: str, task: str, frame: int | None, time: float, observed: Sequence[int], samples: np.ndarray | None
) -> dict[str, Any]:
    """A row of the record (`PREDICTION_SCHEMA`), without files."""
    return {
        "subject": subject,
        "task": task,
        "frame": frame,
        "time": time,
        "observed": list(observed),
        "samples": None if samples is None else samples.astype("<f2").tobytes(),
        "shape": None if samples is None else list(samples.shape),
        "files": [],
        "error": "",
    }


def _failure(subject: str, task: str, error: Exception) -> dict[str, Any]:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return {**_told(subject, task, -1, float("nan"), (), None), "error": reason}
