"""A prepared study: `_study.json` and `subjects/*.parquet`, which describe the shards beside them.

    _study.json         the settings and their digests, the splits, what was left out; written last
    subjects/*.parquet  a row a subject: its shard and row there, its checksum, the key of its sources
    parts/*.parquet     the shards, a row a subject (`sadm_ray.data.shards.subject_row.ROW_SCHEMA`)

A split is a list of names, not a folder: another fold or fraction of the same study costs no preparation.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64

from sadm_ray.config import SAFE_NAME, Settings, contrasts_of
from sadm_ray.data.find.study_tables import map_in_threads
from sadm_ray.data.shards.subject_row import SCHEMA_VERSION, parse_row, with_all_columns, without_later
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage

if TYPE_CHECKING:
    from ray.data import Dataset

STUDY_FILE = "_study.json"
SHARDS_FOLDER, SUBJECTS_FOLDER = "parts", "subjects"
VOLUME_SETTINGS = ("orientation", "crop", "spacing", "shape", "register", "intensity")
"""The settings of `data` that decide how a volume looks."""
PREPARATION_SETTINGS = (*VOLUME_SETTINGS, "frames", "dtype")
"""The settings needed to prepare another study in the same way."""


@dataclass(frozen=True)
class RowLocation:
    """Where a subject's row is stored: the shard's path below the study and the row group."""

    shard: str
    row: int


@dataclass(frozen=True)
class Study:
    """The content of `_study.json`.

    `digest` is of all settings that decide who is in the study and how; `preparation` of those alone that decide how a
    volume looks, which is what a model depends on; `content` of everything that the shards hold, in any shard or row;
    `places` is the file of the row locations (empty: an older study, see `subjects_file`). `scans` is where the scans
    were, also those of the phantom (empty: an older study, see `settings`). `difference_scale` is the
    root mean square of frame j − frame i over all pairs i < j of the training subjects' scans (0 where no subject
    trains). `problems` are lines, one for each thing that was left out; `warnings` are of what was used all the same.
    """

    location: str
    digest: str
    preparation: str
    content: str
    frames: int | None
    shape: tuple[int, int, int]
    time_unit: str
    subjects: Mapping[str, tuple[str, ...]]  # by split
    difference_scale: float
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    places: str = ""
    scans: str = ""

    def names(self, split: str) -> tuple[str, ...]:
        """The subjects of a split.

        Raises:
            DataError: there are none.
        """
        names = self.subjects.get(split, ())
        if not names:
            raise DataError(
                f"{self.location}: no subjects to {_PURPOSE[split]}; add subjects, raise data.split.{split}, or set "
                "data.split.method=balanced"
            )
        return names

    @property
    def row_bytes(self) -> int:
        """Approximate stored size of a subject; of one with all visits kept, for sixteen of them."""
        d, h, w = self.shape
        return (self.frames or 16) * d * h * w * 2 * len(self.contrasts)

    @property
    def volume_shape(self) -> tuple[int, int, int, int]:
        """The size c d h w of a frame."""
        return (len(self.contrasts), *self.shape)

    @property
    def contrasts(self) -> tuple[str, ...]:
        """The names of the channels of a frame; of one alone it is empty."""
        return contrasts_of(self.settings.get("suffix", ""))

    @property
    def subjects_file(self) -> str:
        """The table of the row locations. It is never overwritten, so it belongs to this study and may be cached."""
        return self.places or f"_subjects-{self.content[:16]}.parquet"

    def write(self) -> None:
        """Write `_study.json`, which makes the study complete."""
        content = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        del content["location"]
        Storage(self.location).write(STUDY_FILE, json.dumps(content, indent=2).encode())


_BLOCK_BYTES = 8 << 20
"""Of one reading task, at least: a process that reads takes some seconds of a CPU to begin, 8 MiB a tenth of one."""
_PURPOSE = {"train": "train on", "val": "choose settings on", "test": "test"}


def data_digest(settings: Settings) -> str:
    """A hash of all settings that decide who is in the study and how: equal hashes mean the same study."""
    phantom = settings.phantom.facts() if settings.data.root is None else None
    data = without_later(settings.data.model_dump(mode="json", exclude={"shards"}))
    return _digest(SCHEMA_VERSION, settings.seed, data, phantom)


def preparation_digest(settings: Settings, time_unit: str) -> str:
    """A hash of the settings that decide how a volume looks and what its time means: what a model depends on."""
    looks = without_later(settings.data.model_dump(mode="json", include=set(VOLUME_SETTINGS)))
    if len(settings.data.contrasts) > 1:
        looks["suffix"] = list(settings.data.contrasts)
    return _digest(SCHEMA_VERSION, looks, time_unit)


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_study(location: str) -> Study:
    """Read `_study.json` as `prepare_study` wrote it.

    Raises:
        DataError: no study here, an unfinished one, or one of another schema; or it names a file or a subject that
            leads out of its folder.
    """
    storage = Storage(location)
    file = storage.where(STUDY_FILE)
    try:
        content = json.loads(storage.read(STUDY_FILE))
    except FileNotFoundError:
        raise DataError(f"{file}: no prepared study here; run `sadm-ray prepare` first") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); run `sadm-ray prepare` again") from None
    if not isinstance(content, dict) or content.pop("schema_version", None) != SCHEMA_VERSION:
        raise DataError(f"{file}: written by another version of sadm-ray; run `sadm-ray prepare` again")
    content["subjects"] = {split: tuple(names) for split, names in content["subjects"].items()}
    for key in ("shape", "problems", "warnings"):
        content[key] = tuple(content[key])
    unsafe = [name for names in content["subjects"].values() for name in names if not SAFE_NAME.fullmatch(name)]
    if unsafe:  # files and folders are called after subjects
        raise DataError(f"{file}: {unsafe[0][:100]!r} cannot be a subject's name; run `sadm-ray prepare` again")
    if content.get("places"):
        storage.require_inside(content["places"], STUDY_FILE, "run `sadm-ray prepare` again")
    return Study(location=storage.location, **content)


def read_subject(study: Study, subject: str) -> dict[str, Any]:
    """One subject's row with its arrays (`sadm_ray.data.shards.subject_row.parse_row`), without Ray.

    Raises:
        DataError: no such subject, or its shard is missing or damaged.
    """
    places = row_locations(study)
    if subject not in places:
        raise DataError(f"{study.location}: no subject '{subject}' here; see {STUDY_FILE} for the names")
    return parse_row(read_row(study.location, places[subject]).to_pylist()[0])


def rows_of(study: Study, subjects: Sequence[str]) -> Dataset:
    """The stored rows of these subjects as a Ray dataset, lazily and in this order; one may be named more than once.

    `subject_row.parse_row` makes arrays of a row; until then it is as small as in its shard. Reading requests no CPU,
    two tasks at a time: it runs beside work that may hold all CPUs.
    """
    import ray

    places = row_locations(study)
    wanted = [{"part": places[name].shard, "row": places[name].row} for name in subjects]
    blocks = max(min(len(wanted) // 8, len(wanted) * study.row_bytes // _BLOCK_BYTES), 1)
    return ray.data.from_items(wanted, override_num_blocks=blocks).map_batches(
        _read_rows,
        fn_kwargs={"location": study.location},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,
        concurrency=min(2, blocks),
    )


class Slots(NamedTuple):
    """Which slots of a subject hold a scan, and the times of all slots."""

    present: Bool[np.ndarray, " t"]
    times: Float64[np.ndarray, " t"]


def read_slots(study: Study, subjects: Collection[str]) -> Mapping[str, Slots]:
    """The slots of each subject, without its voxels; those in damaged shards are left out."""
    places = row_locations(study)
    shards: dict[str, list[str]] = {}
    for name in subjects:
        if name in places:
            shards.setdefault(places[name].shard, []).append(name)

    def read(shard: str) -> Mapping[str, Slots]:
        try:
            with Storage(study.location).open_random(shard) as stream:
                rows = pq.read_table(stream, columns=["present", "times"]).to_pylist()
            found = {name: rows[places[name].row] for name in shards[shard]}
        except (OSError, pa.ArrowException, IndexError):
            return {}
        return {
            name: Slots(np.asarray(row["present"], dtype=bool), np.asarray(row["times"], dtype=np.float64))
            for name, row in found.items()
        }

    found = map_in_threads(read, list(shards))
    return {name: slots for some in found for name, slots in some.items()}


def row_locations(study: Study) -> Mapping[str, RowLocation]:
    """The location of each subject's row."""
    return {name: place for name, (_, place) in _keys_and_locations(study.location, study.subjects_file).items()}


def read_keys(study: Study) -> Mapping[str, tuple[str, RowLocation]]:
    """The key (`sadm_ray.data.shards.subject_row.row_key`) and the location of each subject's row."""
    return _keys_and_locations(study.location, study.subjects_file)


def read_checksums(study: Study) -> Mapping[str, str]:
    """The checksum of what each subject's row holds."""
    with Storage(study.location).open_random(study.subjects_file) as stream:
        rows = pq.read_table(stream, columns=["subject", "checksum"]).to_pylist()
    return {row["subject"]: row["checksum"] for row in rows}


def write_row_locations(location: str, facts: Sequence[Mapping[str, Any]]) -> str:
    """Write the table of the row locations, a row a subject: `part`, `row`, `key`, `checksum`, `scans` and sums.

    Returns:
        its file, named after a hash of its content.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(fact) for fact in facts]), sink, compression="zstd")
    table = sink.getvalue().to_pybytes()
    file = f"{SUBJECTS_FOLDER}/{hashlib.sha256(table).hexdigest()[:16]}.parquet"
    Storage(location).write(file, table)
    return file


@functools.lru_cache(maxsize=8)
def _keys_and_locations(location: str, file: str) -> Mapping[str, tuple[str, RowLocation]]:
    storage = Storage(location)
    try:
        with storage.open_random(file) as stream:
            rows = pq.read_table(stream, columns=["subject", "key", "part", "row"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{storage.where(file)}: cannot be read ({error}); run `sadm-ray prepare` again") from None
    for row in rows:
        storage.require_inside(row["part"], file, "run `sadm-ray prepare` again")
    return {row["subject"]: (row["key"], RowLocation(row["part"], row["row"])) for row in rows}


def read_row(location: str, place: RowLocation) -> pa.Table:
    """A stored row, alone in a table, whose times are float64 also where an earlier version stored float32.

    Raises:
        DataError: the shard is missing or damaged.
    """
    try:
        return with_all_columns(_open_shard(location, place.shard).read_row_group(place.row))
    except (OSError, pa.ArrowException) as error:
        _open_shard.cache_clear()  # so that the mended file is read
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{Storage(location).where(place.shard)}: missing or damaged ({reason}); remove it and run "
            "`sadm-ray prepare` again"
        ) from None


@functools.lru_cache(maxsize=16)
def _open_shard(location: str, shard: str) -> pq.ParquetFile:
    return pq.ParquetFile(Storage(location).open_random(shard), page_checksum_verification=True)


def _read_rows(wanted: pa.Table, location: str) -> pa.Table:
    return pa.concat_tables(read_row(location, RowLocation(row["part"], row["row"])) for row in wanted.to_pylist())
