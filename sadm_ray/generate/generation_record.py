"""The records of what was generated, a file a subject: whole or absent, written after the subject's volumes.

<out>/request.json                    the request that the folder belongs to
<out>/predictions/<subject>.parquet   a row a frame: `PREDICTION_SCHEMA`; in its metadata the key of its job
<out>/manifest.parquet                a row a file: `MANIFEST_SCHEMA`; written last
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sadm_ray.errors import ConfigError, DataError
from sadm_ray.storage import Storage

PREDICTIONS, REQUEST, MANIFEST = "predictions", "request.json", "manifest.parquet"

FILE = pa.struct({"path": pa.string(), "estimate": pa.string(), "bytes": pa.int64(), "sha256": pa.string()})

PREDICTION_SCHEMA = pa.schema(
    {
        "subject": pa.string(),
        "task": pa.string(),  # or the name of the request
        "frame": pa.int64(),  # the slot; null for a time without one
        "time": pa.float64(),
        "observed": pa.list_(pa.int64()),  # slots
        "samples": pa.large_binary(),  # float16, little-endian, C order; null where there is nothing to evaluate
        "shape": pa.list_(pa.int64()),  # s c d h w
        "files": pa.list_(FILE),
        "error": pa.string(),  # empty, or why there is nothing
    }
)
MANIFEST_SCHEMA = pa.schema(
    [*(PREDICTION_SCHEMA.field(name) for name in ("subject", "task", "frame", "time")), *FILE.fields]
)
_ABOUT = b"sadm_ray"
_FRAME_COLUMNS = [name for name in PREDICTION_SCHEMA.names if name not in ("samples", "observed", "shape")]


@dataclass(frozen=True)
class SubjectRecord:
    """The record of a subject: the key of its `SubjectJob`, and its frames without the voxels."""

    key: str
    frames: Sequence[Mapping[str, Any]]

    @property
    def failed(self) -> bool:
        return any(frame["error"] for frame in self.frames)

    @property
    def files(self) -> list[Mapping[str, Any]]:
        return [file for frame in self.frames for file in frame["files"]]


def write_record(
    out: Storage, subject: str, key: str, rows: Sequence[Mapping[str, Any]], checksum: str | None = None
) -> None:
    """Write the record of a subject. Its volumes must be written already.

    Args:
        checksum: of the stored row that was observed.
    """
    about = {"key": key, "checksum": checksum or None}
    schema = PREDICTION_SCHEMA.with_metadata({_ABOUT: json.dumps(about).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), sink, compression="zstd")
    out.write(_path(subject), sink.getvalue())


def read_predictions(file: str, **how: Any) -> pa.Table:
    """The frames of a subject, with their voxels (`PREDICTION_SCHEMA`).

    Args:
        file: a path or a URL.
        how: which `columns`, and of which rows (`filters`), as `pyarrow.parquet.read_table` has them.

    Raises:
        OSError, pyarrow.ArrowException: it is missing or damaged.
    """
    system, path = Storage(file).resolved
    return pq.read_table(path, filesystem=system, partitioning=None, **how)


def observed_checksum(file: str) -> str | None:
    """The checksum of the stored row that the predictions in a file were made from; None: an earlier version's."""
    system, path = Storage(file).resolved
    about = json.loads((pq.read_schema(path, filesystem=system).metadata or {}).get(_ABOUT, b"{}"))
    checksum: str | None = about.get("checksum")
    return checksum


def read_request(out: Storage) -> Mapping[str, Any] | None:
    """The facts that decided what was generated (`generation_plan.Plan.decisive`); None where there are none.

    Raises:
        DataError: the file is damaged.
    """
    try:
        facts: Mapping[str, Any] = json.loads(out.read(REQUEST))
        if not isinstance(facts, dict):
            raise ValueError("no facts by name")  # noqa: TRY004, TRY301
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{out.where(REQUEST)}: cannot be read ({error}); remove it and generate again") from None
    return facts


def read_record(out: Storage, subject: str) -> SubjectRecord | None:
    """The record of a subject; None where there is none, or it cannot be read."""
    try:
        with out.open_random(_path(subject)) as stream:
            table = pq.read_table(stream, columns=_FRAME_COLUMNS)
        key = json.loads(table.schema.metadata[_ABOUT])["key"]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return SubjectRecord(key, table.to_pylist())


def recorded(out: Storage) -> set[str]:
    """The subjects that have a record."""
    files = (file.rpartition("/")[2] for file in out.files(PREDICTIONS))
    return {name.removesuffix(".parquet") for name in files if name.endswith(".parquet") and not name.startswith(".")}


def remove(out: Storage, subject: str, kept: Collection[str] = ()) -> None:
    """Remove what was generated of a subject, except the files `kept`: first its record, then the files."""
    record = read_record(out, subject)
    out.delete(_path(subject))
    for file in record.files if record else ():
        if file["path"] not in kept:
            out.delete(file["path"])


def claim(out: Storage, decisive: Mapping[str, Any], replace: bool) -> None:
    """Make the folder belong to this request; with `replace` the files of another request are removed.

    Raises:
        ConfigError: it belongs to another request.
    """
    try:
        before = json.loads(out.read(REQUEST))
    except FileNotFoundError:
        before = None
    except ValueError:
        before = {}
    now = json.loads(json.dumps(dict(decisive)))
    if before is not None and before != now:
        changed = ", ".join(key for key in dict.fromkeys([*now, *before]) if now.get(key) != before.get(key))
        if not replace:
            raise ConfigError(
                f"generate.out: {out.location} holds the answers to another request ({changed} changed); take another "
                "generate.out, or set generate.replace=true to have them removed"
            )
        for subject in sorted(recorded(out)):
            remove(out, subject)
        out.delete(MANIFEST)
    if before != now:
        out.write(REQUEST, (json.dumps(now, indent=2) + "\n").encode())


def write_manifest(out: Storage, records: Iterable[SubjectRecord]) -> int:
    """Write the list of all files with their checksums, in the order of subjects and paths; returns how many."""
    rows = [
        {name: frame[name] for name in ("subject", "task", "frame", "time")} | file
        for record in records
        for frame in record.frames
        for file in frame["files"]
    ]
    rows.sort(key=lambda row: (row["subject"], row["path"]))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), sink, compression="zstd")
    out.write(MANIFEST, sink.getvalue())
    return len(rows)


def _path(subject: str) -> str:
    return f"{PREDICTIONS}/{subject}.parquet"
