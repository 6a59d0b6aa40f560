"""From a folder of scans to Parquet shards, by Ray Data, and back.

One streaming plan, read → map → write, makes all splits at once: Parquet partitions the rows by their split, and a
subject that fails becomes a row of a split of its own (`problems`), which is read, reported and removed. So the voxels
pass through memory once, nothing is held back for the statistics (each row brings its own sums), one bad file stops
nobody, and bad rows never stand among the shards. `_study.json` is written last: a study without it is not complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from sadm_ray.config import Settings
from sadm_ray.data.catalog import Subject, find_subjects
from sadm_ray.data.rows import ROW_TEXTS, prepare_subject, row_arrays
from sadm_ray.errors import DataError

if TYPE_CHECKING:
    from ray.data import Dataset

    from sadm_ray.progress import Reporter

SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test")
STUDY_FILE = "_study.json"
TIME_UNIT = "cardiac phase (ED 0, ES 1)"

_PROBLEMS = "problems"
_SUBJECTS_PER_FILE = 4  # many enough files for several workers to share, few enough to open


@dataclass(frozen=True)
class Study:
    """What `_study.json` tells of the shards beside it.

    `difference_scale` is the root mean square of frame j − frame i over all pairs i < j of present frames of the
    training subjects, for intensities in [0, 1]. `problems` are lines, one for each thing that was left out.
    """

    digest: str
    frames: int
    shape: tuple[int, int, int]
    time_unit: str
    subjects: Mapping[str, tuple[str, ...]]  # by split
    problems: tuple[str, ...]
    difference_scale: float


def data_digest(settings: Settings) -> str:
    """A hash of all settings that decide what the shards hold: two equal ones mean the same study."""
    phantom = settings.phantom.model_dump(mode="json") if settings.data.root is None else None
    tree = [SCHEMA_VERSION, settings.seed, settings.data.model_dump(mode="json"), phantom]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def split_subjects(subjects: Sequence[Subject], val: float, test: float, seed: int) -> dict[str, str]:
    """Give every subject a split, by name: `test` and `val` are fractions of the subjects, the rest trains.

    Deterministic in the names, groups and `seed`. Within a group the order is that of a hash; the groups are then
    interleaved evenly, so that every split has its share of each. A fraction above 0 gives one subject at least, while
    one remains to train on.
    """
    groups: dict[str, list[str]] = {}
    for subject in subjects:
        groups.setdefault(subject.group, []).append(subject.name)
    places = []
    for group, names in groups.items():
        names.sort(key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        places += [((rank + 0.5) / len(names), group, name) for rank, name in enumerate(names)]
    order = [name for _, _, name in sorted(places)]
    spare = len(order) - 1
    tests = min(max(round(test * len(order)), test > 0), spare)
    vals = min(max(round(val * len(order)), val > 0), spare - tests)
    ends = {"test": order[:tests], "val": order[tests : tests + vals], "train": order[tests + vals :]}
    return {name: split for split, names in ends.items() for name in names}


def prepare_study(settings: Settings, root: Path, out: Path) -> Study:
    """Prepare all subjects below `root` and write the study to `out`, in the place of any study that is there.

    Writes `out/{train,val,test}/*.parquet` and `out/_study.json`. Needs a running Ray.

    Raises:
        DataError: `root` is no study, or no subject of it is left to train on; all that is wrong in `problems`.
    """
    import ray

    from sadm_ray.progress import progress

    catalog = find_subjects(root)
    problems = [str(problem) for problem in catalog.problems]
    if not catalog.subjects:
        raise DataError(f"{root}: none of its subjects can be used; mend what is listed", problems)
    shape, slots = settings.data.shape, settings.data.frames
    split_of = split_subjects(catalog.subjects, settings.data.val_fraction, settings.data.test_fraction, settings.seed)

    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    (out / STUDY_FILE).unlink(missing_ok=True)
    for split in (*SPLITS, _PROBLEMS):
        shutil.rmtree(out / split, ignore_errors=True)

    # Subjects of one split side by side, so that a block, hence a file, mostly has rows of one split.
    ordered = [{"subject": name} for name in sorted(split_of, key=lambda name: (split_of[name], name))]
    blocks = -(-len(ordered) // _SUBJECTS_PER_FILE)
    with progress("prepare", len(ordered)) as reporter:
        rows = ray.data.from_items(ordered, override_num_blocks=blocks).map(
            _prepare_row,
            fn_kwargs={
                "subjects": {subject.name: subject for subject in catalog.subjects},
                "split_of": split_of,
                "shape": shape,
                "slots": slots,
                "reporter": reporter,
            },
        )
        rows.write_parquet(
            str(out),
            partition_cols=["split"],
            partitioning_flavor=None,  # folders named `train`, not `split=train`
            compression="zstd",
            row_group_size=_SUBJECTS_PER_FILE,
        )
    problems += _take_problems(out)
    subjects = {split: tuple(sorted(_column(out / split, "subject"))) for split in SPLITS}
    if not subjects["train"]:
        raise DataError(f"{root}: no subject is left to train on; mend what is listed or add subjects", problems)
    study = Study(
        digest=data_digest(settings),
        frames=slots,
        shape=shape,
        time_unit=TIME_UNIT,
        subjects=subjects,
        problems=tuple(problems),
        difference_scale=_difference_scale(out),
    )
    told = {"schema_version": SCHEMA_VERSION, **asdict(study), "data": settings.data.model_dump(mode="json")}
    partial = out / f".{STUDY_FILE}"
    partial.write_text(json.dumps(told, indent=2), encoding="utf-8")
    partial.replace(out / STUDY_FILE)
    return study


def read_study(out: Path) -> Study:
    """Read what `prepare_study` told.

    Raises:
        DataError: no study here, one that was cut short, or one of another schema.
    """
    file = out / STUDY_FILE
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file}: no prepared study here; run `sadm-ray prepare` first") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); run `sadm-ray prepare` again") from None
    if not isinstance(told, dict) or told.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{file}: written by another version of sadm-ray; run `sadm-ray prepare` again")
    return Study(
        digest=told["digest"],
        frames=told["frames"],
        shape=tuple(told["shape"]),
        time_unit=told["time_unit"],
        subjects={split: tuple(names) for split, names in told["subjects"].items()},
        problems=tuple(told["problems"]),
        difference_scale=told["difference_scale"],
    )


def read_shards(out: Path, split: str, columns: Sequence[str] | None = None, blocks: int | None = None) -> Dataset:
    """The rows of a split as a Ray dataset, lazily; batches in numpy format are stacked arrays.

    Args:
        columns: only these are read.
        blocks: into how many parts the rows are cut at least, so that as many workers can share them.

    Raises:
        DataError: the study is missing or the split has no subjects.
    """
    import ray

    if not read_study(out).subjects.get(split):
        raise DataError(f"{out / split}: no subjects in this split; add subjects or raise data.{split}_fraction")
    rows = ray.data.read_parquet(str((out / split).absolute()), partitioning=None, override_num_blocks=blocks)
    return rows if columns is None else rows.select_columns(list(columns))  # Parquet then reads no others


def read_subject(out: Path, split: str, subject: str) -> dict[str, Any]:
    """One row of `prepare_subject`, without Ray; `source` parsed.

    Raises:
        DataError: the study or the subject is missing.
    """
    study = read_study(out)
    if subject not in study.subjects.get(split, ()):
        raise DataError(f"{out / split}: no subject '{subject}' here; see {STUDY_FILE} for the names")
    table = pads.dataset(out / split).to_table(filter=pads.field("subject") == subject)
    row: dict[str, Any] = {name: table[name][0].as_py() for name in ROW_TEXTS}
    row["source"] = json.loads(row["source"])
    for name, (dtype, shape) in row_arrays(study.frames, study.shape).items():
        row[name] = _values(table[name]).astype(dtype, copy=False).reshape(shape)
    return row


def _prepare_row(
    item: dict[str, Any],
    subjects: Mapping[str, Subject],
    split_of: Mapping[str, str],
    shape: tuple[int, int, int],
    slots: int,
    reporter: Reporter,
) -> dict[str, Any]:
    """A row for the Parquet file of its split; a subject that fails becomes an empty row that tells why."""
    name = item["subject"]
    reporter.add.remote(1)
    try:
        return {**prepare_subject(subjects[name], shape, slots), "split": split_of[name]}
    except DataError as error:
        told = "\n".join(error.problems or (str(error),))
    except Exception as error:  # whatever it is, it is this subject's alone
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        told = f"{subjects[name].frames[0].path}: {reason}; look at the file or report a bug"
    empty = {column: np.zeros(size, dtype) for column, (dtype, size) in row_arrays(slots, shape).items()}
    return {"subject": name, "group": "", "source": "", "error": told, **empty, "split": _PROBLEMS}


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """The numbers of a tensor column in one row of memory, whether or not Ray's extension type is registered."""
    array = column.combine_chunks()
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    return storage.flatten().to_numpy(zero_copy_only=False)


def _column(folder: Path, name: str) -> list[Any]:
    if not folder.is_dir():
        return []
    return pads.dataset(folder).to_table(columns=[name])[name].to_pylist()


def _take_problems(out: Path) -> list[str]:
    folder = out / _PROBLEMS
    rows = zip(_column(folder, "subject"), _column(folder, "error"), strict=True)
    lines = [f"{subject}: {line}" for subject, error in sorted(rows) for line in error.splitlines()]
    shutil.rmtree(folder, ignore_errors=True)
    return lines


def _difference_scale(out: Path) -> float:
    table = pads.dataset(out / "train").to_table(columns=["squares", "differences"])
    scale = float(np.sqrt(_values(table["squares"]).sum() / _values(table["differences"]).sum()))
    if not scale > 0:
        raise DataError(f"{out / 'train'}: the frames of every training subject are equal; there is nothing to learn")
    return scale
