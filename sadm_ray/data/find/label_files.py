"""Which label map (segmentation) lies beside which scan, in all layouts; no image is opened.

    ACDC       patient001_frame01_gt.nii.gz beside its scan or cine
    BIDS       sub-01[_ses-1][_entities]_dseg.nii.gz in a folder of derivatives, `data.labels`
    manifest   the column `labels`

Label maps are no part of the shards and no model sees them. They are looked up when a study is inspected or scored, so
they may come, or be corrected, after it was prepared.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow as pa

from sadm_ray.config import is_url
from sadm_ray.data.find.catalog import Problem
from sadm_ray.data.find.label_names import BidsName, Names, NameTables
from sadm_ray.data.find.study_tables import first_line, map_in_threads, read_table
from sadm_ray.data.find.time_units import some
from sadm_ray.errors import DataError
from sadm_ray.storage import IMAGE_SUFFIXES, Entry, Storage

ACDC_NAMES: Names = {3: "LV cavity", 2: "myocardium", 1: "RV cavity"}
"""What ACDC's labels stand for."""

_OWN_SPACES = ("orig", "scanner", "individual")
"""The `space-` of a label map that lies where the scans of its visit lie; so does one of a contrast."""
_VISIT, _OF_LABELS = ("sub", "ses"), ("space", "res", "desc", "label", "seg", "atlas")
"""Entities that a label map shares with its scan, and those that a scan need not share with it."""


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label map.

    `file` is its path below the study's folder (or absolute, or a URL), `size` in bytes. `names` are empty where they
    are not known. `entities` are those of its name that its scan must not contradict. `by_voxel`: it lies on its scan
    voxel for voxel, whatever its header says.
    """

    file: str
    size: int
    names: Names
    entities: Mapping[str, str] = field(default_factory=dict)
    by_voxel: bool = False

    def fits(self, scan: str) -> bool:
        """Whether nothing in the name of the scan contradicts that of the label map."""
        own = BidsName.of(scan).entities if self.entities else {}
        return all(own.get(key, value) == value for key, value in self.entities.items())


@dataclass(frozen=True)
class LabelFiles:
    """The label maps of a study by their scans (`of`).

    `folder` is what the paths of label maps and scans are relative to; `found` has those of a visit or a scan, by a key
    that depends on the layout.
    """

    folder: str
    layout: str
    found: Mapping[str, Sequence[LabelFile]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def storage(self) -> Storage:
        """Where the label maps are."""
        return Storage(self.folder, scattered=True)

    def of(self, scan: str, frame: int | None) -> LabelFile | None:
        """The label map of a scan, of a 4D file that of a `frame` (from 0); none where there is none.

        Raises:
            DataError: several fit.
        """
        key = _KEYS[self.layout](self.storage, scan, frame)
        fitting = [each for each in self.found.get(key, ()) if each.fits(scan)]
        if len(fitting) > 1:
            files = some([each.file.rpartition("/")[2] for each in fitting])
            raise DataError(
                f"{len(fitting)} label maps fit it ({files}); choose one by a pattern behind the folder of "
                "data.labels, such as …/*_desc-aseg_dseg.nii.gz"
            )
        return fitting[0] if fitting else None

    def only(self, scans: Sequence[tuple[str, int | None]]) -> LabelFiles:
        """Those of some scans, without the problems."""
        keys = dict.fromkeys(_KEYS[self.layout](self.storage, *scan) for scan in scans)
        return LabelFiles(self.folder, self.layout, {key: self.found[key] for key in keys if key in self.found})


def find_labels(root: str, layout: str, labels: str | None = None, contrasts: Sequence[str] = ()) -> LabelFiles:
    """List the label maps of the study at `root`; what is wrong is in `problems`, and nothing is raised for it.

    A study of ACDC, or a manifest, that is out of reach has none.

    Args:
        labels: `data.labels`.
        contrasts: of the scans.
    """
    if layout == "acdc":
        return _acdc(Storage(root))
    if layout == "manifest":
        return _manifest(root)
    return LabelFiles(Storage(root).location, layout) if labels is None else _bids(Storage(root), labels, contrasts)


def label_stem(file: str, frame: int | None) -> str:
    """ACDC's name, without its ending, for the labels of a scan; of a cine with the number (from 1) of the frame."""
    stem = _without_ending(file)
    if frame is not None:
        stem = f"{stem.removesuffix('_4d')}_frame{frame + 1:02d}"
    return f"{stem}_gt"


def _without_ending(file: str) -> str:
    return file.removesuffix(next((suffix for suffix in reversed(IMAGE_SUFFIXES) if file.endswith(suffix)), ""))


def _acdc(storage: Storage) -> LabelFiles:
    try:
        entries = storage.entries()
    except (OSError, DataError):
        entries = []
    found = {
        _without_ending(entry.path): [LabelFile(entry.path, entry.size, ACDC_NAMES, by_voxel=True)]
        for entry in entries
        if re.search(r"_gt\.nii(\.gz)?$", entry.path)
    }
    return LabelFiles(storage.location, "acdc", found)


def _bids(study: Storage, labels: str, contrasts: Sequence[str]) -> LabelFiles:
    """The label maps in a folder of derivatives."""
    place, pattern = _split(labels)
    whole = place if is_url(place) or place.startswith("/") else study.where(place if place != "." else "")
    storage = Storage(whole)
    try:
        entries = storage.entries()
    except (OSError, DataError) as error:
        reason = f"cannot be listed ({first_line(error)})" if is_url(whole) else "no such folder"
        message = f"{reason}; data.labels must be a folder below data.root, an absolute path or a URL"
        return LabelFiles(study.location, "bids", problems=(Problem("", storage.location, message),))
    images = [entry for entry in entries if entry.path.endswith(IMAGE_SUFFIXES) and _is_wanted(entry.path, pattern)]
    named = [(entry, BidsName.of(entry.path).entities) for entry in images]
    named = [(entry, entities) for entry, entities in named if "sub" in entities]
    problems = []
    if not named:
        what = f"holds no label map of a subject (sub-…) called {pattern or '*_dseg.nii.gz'}"
        message = f"{what}; correct data.labels, a folder or a folder and a pattern behind it"
        problems.append(Problem("", storage.location, message))
    spaces = {*_OWN_SPACES, *contrasts}
    foreign = [entry.path for entry, entities in named if entities.get("space", "orig") not in spaces]
    if foreign:
        space = BidsName.of(foreign[0]).entities["space"]
        message = (
            f"{len(foreign)} label maps lie in space-{space} or another that is not that of the scans; they are not "
            "used: give label maps in the space of each visit"
        )
        problems.append(Problem("", storage.where(foreign[0]), message, fatal=False))
    tables = NameTables.read(storage, entries, NameTables.read(study, _top_tables(study)))
    found: dict[str, list[LabelFile]] = {}
    for entry, entities in named:
        if entities.get("space", "orig") in spaces:
            own = {key: value for key, value in entities.items() if key not in (*_VISIT, *_OF_LABELS)}
            file = LabelFile(storage.where(entry.path), entry.size, tables.names_for(entry.path), own)
            found.setdefault(_visit_key(study, entry.path, None), []).append(file)
    return LabelFiles(study.location, "bids", found, (*problems, *tables.problems))


def _split(labels: str) -> tuple[str, str]:
    """The folder, and the pattern of names behind it if there is one."""
    folder, slash, last = labels.rstrip("/").rpartition("/")
    if "*" not in last:
        return labels.rstrip("/") or "/", ""
    return folder or ("/" if slash else "."), last


def _is_wanted(path: str, pattern: str) -> bool:
    name = path.rpartition("/")[2]
    return fnmatchcase(name, pattern) if pattern else _without_ending(name).endswith("_dseg")


def _top_tables(study: Storage) -> list[Entry]:
    """The tables of names at the top of the study itself."""
    try:
        names = [file.strip("/") for file in study.files("")]
        found = [study.entry(name) for name in names if name.endswith("dseg.tsv")]
    except (OSError, pa.ArrowException):
        return []
    return [entry for entry in found if entry is not None]


def _manifest(root: str) -> LabelFiles:
    """The label maps in the column `labels`, with the names in `dseg.tsv` beside the manifest."""
    full = root if is_url(root) else str(Path(root).expanduser().absolute())
    folder, _, name = full.rpartition("/")
    storage = Storage(folder or "/", scattered=True)
    try:
        entry = storage.entry(name)
        rows = [] if entry is None else list(_rows(storage, entry))
        names_entry = storage.entry("dseg.tsv") if rows else None
    except (OSError, ValueError, pa.ArrowException, DataError):
        return LabelFiles(storage.location, "manifest")
    tables = NameTables.read(storage, [names_entry] if names_entry else [])
    names = tables.names_for("dseg.nii.gz")
    found: dict[str, list[LabelFile]] = {}
    problems = list(tables.problems)
    for (number, subject, scan, path), entry_or_fault in zip(
        rows, map_in_threads(lambda row: _look_up(storage, row[3]), rows), strict=True
    ):
        if isinstance(entry_or_fault, Entry):
            file = LabelFile(path, entry_or_fault.size, names)
            found.setdefault(_scan_key(storage, scan, None), []).append(file)
        else:
            message = f"{entry_or_fault}; row {number} of the manifest has it in the column labels: correct it"
            problems.append(Problem(subject, storage.where(path), message))
    return LabelFiles(storage.location, "manifest", found, tuple(problems))


def _rows(storage: Storage, entry: Entry) -> Iterator[tuple[int, str, str, str]]:
    """Number, subject, scan and label map of each row that has one; faulty rows are told by the catalog."""
    table = read_table(storage, entry)
    columns = [table.named(name) for name in ("subject", "path", "labels")]
    for number, row in table.rows([]) if all(columns) else ():
        subject, scan, labels = (row.get(column or "", "") for column in columns)
        if scan and labels:
            yield number, subject, scan, labels


def _look_up(storage: Storage, path: str) -> Entry | str:
    if not path.endswith(IMAGE_SUFFIXES):
        return "no .nii or .nii.gz file"
    try:
        return storage.entry(path) or "no such file"
    except (OSError, ValueError, pa.ArrowException, DataError) as error:
        return f"cannot be looked up ({first_line(error)})"


def _scan_key(storage: Storage, scan: str, frame: int | None) -> str:
    return posixpath.normpath(storage.where(scan))


def _visit_key(storage: Storage, scan: str, frame: int | None) -> str:
    entities = BidsName.of(scan).entities
    return "_".join(f"{entity}-{entities[entity]}" for entity in _VISIT if entity in entities)


_KEYS: Mapping[str, Callable[[Storage, str, int | None], str]] = {
    "acdc": lambda _, scan, frame: label_stem(scan, frame),
    "bids": _visit_key,
    "manifest": _scan_key,
}
