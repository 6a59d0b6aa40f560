"""Shards: which subjects are stored in which, and how one is made. A shard is whole or absent.

A hash of a subject's name decides its shard, so that adding or changing a subject touches one shard. A shard is named
after the keys of its rows and the subjects that it lacks: an existing one need not be made again, even after an
interrupted preparation, and stored row locations stay valid. Rows that have not changed are copied from their old
shard.
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
from sadm_ray.data.shards.prepared_study import SHARDS_FOLDER, RowLocation, read_row
from sadm_ray.data.shards.subject_row import ROW_SCHEMA, TOGETHER, file_digests, prepare_subject, row_key, scan_digests
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage

SUBJECTS_PER_SHARD = 16  # few enough for many workers to share a small study
BYTES_PER_SHARD = 64 << 20  # few enough to be held in memory while a shard is written

_SUMMARY = b"sadm_ray"
_FACTS = ("subject", "group", "key", "checksum", "squares", "differences")


@dataclass(frozen=True)
class Shard:
    """A shard to be made: its name, its file if it exists, its subjects, and where some of their rows already are."""

    name: str
    existing_file: str | None
    subjects: tuple[Subject, ...]
    existing_rows: Mapping[str, RowLocation]


def plan_shards(
    subjects: Sequence[Subject],
    settings: DataSettings,
    old_rows: Mapping[str, tuple[str, RowLocation]],
    existing_files: Iterable[str] = (),
) -> list[Shard]:
    """Distribute the subjects over shards.

    Args:
        old_rows: key and location of the rows of the existing study, by subject.
        existing_files: the files of all existing shards, also of an interrupted preparation.
    """
    by_name = {file.removesuffix(".parquet").partition("~")[0]: file for file in sorted(existing_files, reverse=True)}
    d, h, w = settings.shape
    row_bytes = (settings.frames or 8) * d * h * w * (2 if settings.dtype == "float16" else 1) * len(settings.contrasts)
    per_shard = max(1, min(SUBJECTS_PER_SHARD, BYTES_PER_SHARD // row_bytes))
    bits = max(0, (-(-len(subjects) // per_shard) - 1).bit_length())  # a study that doubles splits each shard in two
    buckets: dict[int, list[Subject]] = {}
    for subject in subjects:
        digest = hashlib.sha256(subject.name.encode()).digest()
        buckets.setdefault(int.from_bytes(digest[:8], "big") >> (64 - bits), []).append(subject)
    shards = []
    for bucket, members in sorted(buckets.items()):
        members.sort(key=lambda subject: subject.name)
        keys = {subject.name: row_key(subject, settings) for subject in members}
        name = f"{SHARDS_FOLDER}/{bucket:05x}-{_digest(keys.values())}"
        existing_rows = {
            each: old_rows[each][1] for each, key in keys.items() if each in old_rows and old_rows[each][0] == key
        }
        shards.append(Shard(name, by_name.get(name), tuple(members), existing_rows))
    return shards


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def make_shard(shard: Shard, root: str, out: str, settings: DataSettings) -> dict[str, Any]:
    """Make a shard unless it exists, and return its summary.

    A shard in which some subject failed is made again, with the good rows copied: the reason may be gone.

    Returns:
        `part`, its file; `rows`, the facts of each; `problems`.
    """
    study, source = Storage(out), Storage(root, scattered=True)
    existing_rows = dict(shard.existing_rows)
    if shard.existing_file and (summary := read_summary(study, shard.existing_file)):
        if not _failed(summary):
            return _with_scans(study, summary)
        existing_rows |= {
            fact["subject"]: RowLocation(shard.existing_file, row) for row, fact in enumerate(summary["rows"])
        }
    rows: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    for subject in shard.subjects:
        existing = _existing_row(study, subject.name, existing_rows.get(subject.name))
        row, found = existing or _prepare(subject, source, settings)
        rows += [row] if row is not None else []
        problems += found
    missing = sorted({subject.name for subject in shard.subjects} - {row["subject"] for row in rows})
    file = f"{shard.name}~{_digest(missing)}.parquet" if missing else f"{shard.name}.parquet"
    summary = {
        "part": file,
        "rows": [{**{name: row[name] for name in _FACTS}, "scans": scan_digests(row)} for row in rows],
        "problems": problems,
    }
    study.write(file, to_parquet(rows, summary))
    return summary


def read_summary(study: Storage, file: str) -> dict[str, Any] | None:
    """The summary stored in a shard; none if there is no whole shard."""
    try:
        with study.open_random(file) as stream:
            summary: dict[str, Any] = json.loads(pq.read_schema(stream).metadata[_SUMMARY])
        is_own = summary["part"] == file  # else it was renamed, or made elsewhere
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return summary if is_own else None


def _with_scans(study: Storage, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with the digests of each row's files, which shards of earlier versions have in their rows alone."""
    if all("scans" in fact for fact in summary["rows"]):
        return summary
    with study.open_random(summary["part"]) as stream:
        sources = pq.read_table(stream, columns=["sources"])["sources"].to_pylist()
    rows = [{**fact, "scans": file_digests(text)} for fact, text in zip(summary["rows"], sources, strict=True)]
    return {**summary, "rows": rows}


RowAndProblems = tuple[dict[str, Any] | None, list[dict[str, Any]]]
"""A row, if there is one, and the problems as dictionaries."""


def _prepare(subject: Subject, source: Storage, settings: DataSettings) -> RowAndProblems:
    try:
        prepared = prepare_subject(subject, source, settings)
    except Exception as error:  # any error concerns this subject only
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        file = source.where(subject.scans[0].file)
        return None, [asdict(Problem(subject.name, file, f"{reason}; look at the file or report a bug"))]
    return prepared.row, [asdict(problem) for problem in prepared.problems]


def _existing_row(study: Storage, name: str, place: RowLocation | None) -> RowAndProblems | None:
    """An existing row and the warnings about it; none if it has to be made."""
    if place is None:
        return None
    summary = read_summary(study, place.shard)
    if summary is None or name in _failed(summary):
        return None
    try:
        row = read_row(study.location, place).to_pylist()[0]
    except DataError:
        return None
    return row, [problem for problem in summary["problems"] if problem["subject"] == name]


def _failed(summary: Mapping[str, Any]) -> set[str]:
    """The subjects of which something was left out; they are tried again, since the reason may be gone."""
    return {problem["subject"] for problem in summary["problems"] if problem["fatal"]}


def to_parquet(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> pa.Buffer:
    """Parquet with a row group a subject, so that one can be read alone; zstd, with a checksum a page."""
    together = any(row.get(TOGETHER.name) for row in rows)
    schema = (ROW_SCHEMA.append(TOGETHER) if together else ROW_SCHEMA).with_metadata(
        {_SUMMARY: json.dumps(summary).encode()}
    )
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=False, write_page_checksum=True) as writer:
        for row in rows:
            writer.write_table(pa.Table.from_pylist([dict(row)], schema=schema), row_group_size=1)
    return sink.getvalue()
