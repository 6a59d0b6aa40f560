"""Shards: which subjects stand in which, and how one is made. A shard is whole or absent.

A subject's shard is that of its name's hash, so that adding or changing one touches one shard. A shard is called after
what it is made from and after the subjects that it lacks: one that is there need not be made again, whoever made it and
whatever interrupted them, and what was told of its rows stays true. Rows that have not changed are copied from the
shard that had them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sadm_ray.config import DataSettings
from sadm_ray.data.find.catalog import Problem, Subject
from sadm_ray.data.shards.prepared_study import PARTS, RowLocation, read_table
from sadm_ray.data.shards.subject_row import ROW_SCHEMA, prepare_subject, row_key
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage

SUBJECTS_PER_SHARD = 16  # few enough for many workers to share a small study
BYTES_PER_SHARD = 64 << 20  # few enough to be held in memory while a shard is written

_SUMMARY = b"sadm_ray"
_FACTS = ("subject", "group", "key", "checksum", "squares", "differences")


@dataclass(frozen=True)
class Shard:
    """A shard to be made: its name, the file if it is there, its subjects, and where some of their rows already are."""

    name: str
    there: str | None
    subjects: tuple[Subject, ...]
    known: Mapping[str, RowLocation]


def plan_shards(
    subjects: Sequence[Subject],
    settings: DataSettings,
    old: Mapping[str, tuple[str, RowLocation]],
    there: Iterable[str] = (),
) -> list[Shard]:
    """Share the subjects out over shards.

    Args:
        old: key and place of the rows of the study that is there already, by subject.
        there: the files of all shards that are there, also of a preparation that was cut short.
    """
    by_name = {file.removesuffix(".parquet").partition("~")[0]: file for file in sorted(there, reverse=True)}
    d, h, w = settings.shape
    row_bytes = (settings.frames or 8) * d * h * w * (2 if settings.dtype == "float16" else 1)
    fitting = max(1, min(SUBJECTS_PER_SHARD, BYTES_PER_SHARD // row_bytes))
    bits = max(0, (-(-len(subjects) // fitting) - 1).bit_length())  # a study that doubles splits each shard in two
    buckets: dict[int, list[Subject]] = {}
    for subject in subjects:
        digest = hashlib.sha256(subject.name.encode()).digest()
        buckets.setdefault(int.from_bytes(digest[:8], "big") >> (64 - bits), []).append(subject)
    parts = []
    for bucket, its in sorted(buckets.items()):
        its.sort(key=lambda subject: subject.name)
        keys = {subject.name: row_key(subject, settings) for subject in its}
        name = f"{PARTS}/{bucket:05x}-{_digest(keys.values())}"
        known = {each: old[each][1] for each, key in keys.items() if each in old and old[each][0] == key}
        parts.append(Shard(name, by_name.get(name), tuple(its), known))
    return parts


def _digest(words: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def make_shard(part: Shard, root: str, out: str, settings: DataSettings) -> dict[str, Any]:
    """Make a shard unless it is there, and tell what it holds.

    A shard in which some subject failed is made again, with the good rows copied: the reason may be gone.

    Returns:
        `part`, its file; `rows`, the facts of each; `problems`.
    """
    study, source = Storage(out), Storage(root)
    known = dict(part.known)
    if part.there and (summary := read_summary(study, part.there)):
        if not _failed(summary):
            return summary
        known |= {fact["subject"]: RowLocation(part.there, row) for row, fact in enumerate(summary["rows"])}
    rows: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    for subject in part.subjects:
        row, told = _known_row(study, subject.name, known.get(subject.name)) or _prepare(subject, source, settings)
        rows += [row] if row is not None else []
        problems += told
    missing = sorted({subject.name for subject in part.subjects} - {row["subject"] for row in rows})
    file = f"{part.name}~{_digest(missing)}.parquet" if missing else f"{part.name}.parquet"
    summary = {
        "part": file,
        "rows": [{name: row[name] for name in _FACTS} for row in rows],
        "problems": problems,
    }
    study.write(file, to_parquet(rows, summary))
    return summary


def read_summary(study: Storage, file: str) -> dict[str, Any] | None:
    """What a shard tells of itself; none where there is no whole shard."""
    try:
        with study.open_random(file) as stream:
            told: dict[str, Any] = json.loads(pq.read_schema(stream).metadata[_SUMMARY])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return told


Outcome = tuple[dict[str, Any] | None, list[dict[str, Any]]]
"""A row, if there is one, and the problems as they are told."""


def _prepare(subject: Subject, source: Storage, settings: DataSettings) -> Outcome:
    try:
        prepared = prepare_subject(subject, source, settings)
    except Exception as error:  # whatever it is, it is this subject's alone
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        file = source.where(subject.scans[0].file)
        return None, [asdict(Problem(subject.name, file, f"{reason}; look at the file or report a bug"))]
    return prepared.row, [asdict(problem) for problem in prepared.problems]


def _known_row(study: Storage, name: str, place: RowLocation | None) -> Outcome | None:
    """A row that is there already with the warnings about it; none where it has to be made (again)."""
    if place is None:
        return None
    summary = read_summary(study, place.part)
    if summary is None or name in _failed(summary):
        return None
    try:
        row = read_table(study.location, place).to_pylist()[0]
    except DataError:
        return None
    return row, [problem for problem in summary["problems"] if problem["subject"] == name]


def _failed(summary: Mapping[str, Any]) -> set[str]:
    """The subjects of whom something was left out: the reason may be gone when it is tried again."""
    return {problem["subject"] for problem in summary["problems"] if problem["fatal"]}


def to_parquet(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> pa.Buffer:
    """A row group a subject, so that one can be read alone; zstd, with a checksum a page."""
    schema = ROW_SCHEMA.with_metadata({_SUMMARY: json.dumps(summary).encode()})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=False, write_page_checksum=True) as writer:
        for row in rows:
            writer.write_table(pa.Table.from_pylist([dict(row)], schema=schema), row_group_size=1)
    return sink.getvalue()
