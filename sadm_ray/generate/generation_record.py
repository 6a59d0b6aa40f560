"""The records of what was generated, a file a subject: whole or absent, written after the subject's volumes.

<out>/request.json                    the request and the study that the folder belongs to
<out>/predictions/<subject>.parquet   a row a frame: `PREDICTION_SCHEMA`; in its metadata the key of its job
<out>/manifest.parquet                a row a file: `MANIFEST_SCHEMA`; written last
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sadm_ray.config import SAFE_NAME
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.generate.bids_names import is_file_of
from sadm_ray.storage import Storage

log = logging.getLogger(__name__)

FILE_NAMES = "file names"
"""The fact of a request that says how its files are called (`bids_names.NAMING`); earlier versions wrote none."""

PLACES = ("study", "file")
"""The facts of a request that are places, of the scans and of the request file: no volume looks different for them."""

PREDICTIONS, REQUEST, MANIFEST = "predictions", "request.json", "manifest.parquet"

FILE = pa.struct({"path": pa.string(), "estimate": pa.string(), "bytes": pa.int64(), "sha256": pa.string()})

PREDICTION_SCHEMA = pa.schema(
    {
        "subject": pa.string(),
        "task": pa.string(),  # or the name of the request
        "contrast": pa.string(),  # empty of a study with one; of several each frame has a row for each
        "frame": pa.int64(),  # the slot; null for a time without one
        "time": pa.float64(),
        "observed": pa.list_(pa.int64()),  # slots
        "estimate": pa.large_binary(),  # 1 d h w, as the samples; earlier versions wrote none
        "samples": pa.large_binary(),  # float16, little-endian, C order; null where there is nothing to evaluate
        "structures": pa.string(),  # JSON of `structure_volumes.structures_json`; null without label maps
        "labels": pa.large_binary(),  # int32, d h w: the label map of the estimate; null as are the samples
        "planned": pa.string(),  # JSON of the planned covariates that it was generated under; null of a model without
        "bounds": pa.string(),  # JSON of `BoundWidths`; null where the model is not calibrated
        "shape": pa.list_(pa.int64()),  # of the samples, s 1 d h w; s may be 0
        "files": pa.list_(FILE),
        "error": pa.string(),  # empty, or why there is nothing
    }
)
MANIFEST_SCHEMA = pa.schema(
    [*(PREDICTION_SCHEMA.field(name) for name in ("subject", "task", "contrast", "frame", "time")), *FILE.fields]
)
_ABOUT = b"sadm_ray"
_NOT_READ = {"estimate", "samples", "labels", "planned", "bounds", "shape", "observed"}
_FRAME_COLUMNS = [name for name in PREDICTION_SCHEMA.names if name not in _NOT_READ]


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
    out: Storage,
    subject: str,
    key: str,
    rows: Sequence[Mapping[str, Any]],
    checksum: str | None = None,
    models: Sequence[str] = (),
) -> None:
    """Write the record of a subject. Its volumes must be written already.

    Args:
        checksum: of the stored row that was observed.
        models: the digests of those that drew.
    """
    about = {"key": key, "checksum": checksum or None, "models": list(models)}
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
        DataError: a subject or a task has a name that could leave a folder; files are called after them.
    """
    system, path = Storage(file).resolved
    wanted = how.pop("columns", PREDICTION_SCHEMA.names)
    stored = pq.read_schema(path, filesystem=system).names
    table = pq.read_table(
        path, filesystem=system, partitioning=None, columns=[name for name in wanted if name in stored], **how
    )
    if "contrast" in wanted and "contrast" not in stored:  # of an earlier version
        table = table.append_column(PREDICTION_SCHEMA.field("contrast"), pa.array([""] * len(table), pa.string()))
    for column in {"subject", "task"} & set(table.column_names):
        for name in table[column].unique().to_pylist():
            if not SAFE_NAME.fullmatch(str(name)):
                raise DataError(f"{file}: {name!r} cannot be a {column}'s name; remove the file and generate again")
    return table


@dataclass(frozen=True)
class Origin:
    """What the predictions in a file were made from: the checksum of the stored row, and the digests of the models.

    Both are empty in records of earlier versions.
    """

    checksum: str
    models: tuple[str, ...]


def origin_of(file: str) -> Origin:
    """What the predictions in a file, a path or URL, were made from."""
    system, path = Storage(file).resolved
    about = json.loads((pq.read_schema(path, filesystem=system).metadata or {}).get(_ABOUT, b"{}"))
    return Origin(about.get("checksum") or "", tuple(about.get("models") or ()))


def read_record(out: Storage, subject: str) -> SubjectRecord | None:
    """The record of a subject; None where there is none, or it cannot be read.

    Raises:
        DataError: it names a file that is not one of the subject's volumes.
    """
    try:
        with out.open_random(_path(subject)) as stream:
            stored = pq.ParquetFile(stream)
            table = stored.read([name for name in _FRAME_COLUMNS if name in stored.schema_arrow.names])
        frames = [{"contrast": "", **frame} for frame in table.to_pylist()]  # earlier versions had no such column
        record = SubjectRecord(json.loads(table.schema.metadata[_ABOUT])["key"], frames)
        paths = [str(file["path"]) for file in record.files]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    wrong = [path for path in paths if not is_file_of(subject, path)]
    if wrong:
        raise DataError(
            f"{out.where(_path(subject))}: names {wrong[0][:100]!r}, which is no file of this subject in "
            f"{out.location}; remove the record, which was not written here, or take another generate.out"
        )
    return record


def read_records(out: Storage) -> dict[str, SubjectRecord | None]:
    """The records of all subjects. Raises DataError as `read_record` does."""
    return {subject: read_record(out, subject) for subject in sorted(recorded(out))}


def recorded(out: Storage) -> set[str]:
    """The subjects that have a record."""
    files = (file.rpartition("/")[2] for file in out.files(PREDICTIONS))
    return {name.removesuffix(".parquet") for name in files if name.endswith(".parquet") and not name.startswith(".")}


def remove(out: Storage, subject: str, kept: Collection[str] = ()) -> None:
    """Remove what was generated of a subject, except the files `kept`: first its record, then the files.

    Folders that are empty then go too, as the BIDS validator does not know those of earlier versions.
    """
    record = read_record(out, subject)
    out.delete(_path(subject))
    gone = [str(file["path"]) for file in record.files if file["path"] not in kept] if record else []
    for path in gone:
        out.delete(path)
    for folder in sorted({path.rpartition("/")[0] for path in gone}):
        out.remove_empty(folder)


def refuse_another_request(out: Storage, decisive: Mapping[str, Any], but: Collection[str] = ()) -> None:
    """Raise ConfigError where the folder belongs to a request of other facts, those in `but` apart."""
    changed = {key: line for key, line in _changed(read_request(out), decisive).items() if key not in but}
    if changed:
        raise another_request(out, changed.values())


def claim(
    out: Storage,
    decisive: Mapping[str, Any],
    records: Mapping[str, SubjectRecord | None],
    keys: Mapping[str, str],
    replace: bool,
) -> bool:
    """Make the folder belong to this request; with `replace` the files of another request are removed.

    A study or a request file at another place is another one, unless it was moved: then all that the folder holds is
    still wanted as it is.

    Args:
        decisive: the facts of the request; `PLACES` among them.
        records: `read_records`.
        keys: those of the `SubjectJob` of each subject.

    Returns:
        whether everything was removed.

    Raises:
        ConfigError: it belongs to another request, or nothing says to which.
    """
    before = read_request(out)
    changed = _changed({} if before is None and records else before, decisive)
    is_moved = changed.keys() <= set(PLACES) and all(
        record is not None and keys.get(subject) == record.key for subject, record in records.items()
    )
    another = bool(changed) and not is_moved
    if another:
        if not replace:
            raise another_request(out, changed.values())
        log.warning("%s: what another request left there is removed (%d subjects)", out.location, len(records))
        for subject in records:
            remove(out, subject)
        out.delete(MANIFEST)
    now = json.loads(json.dumps(dict(decisive)))
    if before != now:
        out.write(REQUEST, (json.dumps(now, indent=2) + "\n").encode())
    return another


def read_request(out: Storage) -> dict[str, Any] | None:
    """The facts of the request that the folder belongs to: none that are known in a damaged file; None: no file."""
    try:
        before = json.loads(out.read(REQUEST))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return before if isinstance(before, dict) else {}


def models_of(request: Mapping[str, Any]) -> tuple[str, ...]:
    """The digests of the models in the facts of a request; empty where it has none."""
    models = request.get("model") or ()
    return (models,) if isinstance(models, str) else tuple(models)


def _changed(before: Mapping[str, Any] | None, decisive: Mapping[str, Any]) -> dict[str, str]:
    """What differs of two requests, by fact. Earlier versions did not write the places down: they are then unknown."""
    if before is None:
        return {}
    now = json.loads(json.dumps(dict(decisive)))
    names = [key for key in dict.fromkeys([*now, *before]) if now.get(key) != before.get(key)]
    return {
        key: f"{key} {before.get(key)} before, {now.get(key)} now"
        if key in PLACES
        else "its files are named as in an earlier version"
        if key == FILE_NAMES
        else f"{key} changed"
        for key in names
        if key in before or key not in PLACES
    }


def another_request(out: Storage, changed: Iterable[str]) -> ConfigError:
    """The refusal of a folder that belongs to another request, with what differs."""
    return ConfigError(
        f"generate.out: {out.location} holds the answers to another request ({', '.join(changed)}); take another "
        "generate.out, or set generate.replace=true to have them removed"
    )


def write_manifest(out: Storage, records: Iterable[SubjectRecord]) -> int:
    """Write the list of all files with their checksums, in the order of subjects and paths; returns how many."""
    rows = [
        {name: frame[name] for name in ("subject", "task", "contrast", "frame", "time")} | file
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
