"""Find the subjects of a study laid out as ACDC is (Bernard et al., IEEE TMI 2018).

A folder `patientNNN`, below the root or its `training/` or `testing/`, holds `Info.cfg` and either the whole cine as
`patientNNN_4d.nii.gz` or only its end-diastole (ED) and end-systole (ES) as `patientNNN_frameFF.nii.gz`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from sadm_ray.config import SAFE_NAME, DataSettings
from sadm_ray.data.find.catalog import Catalog, Covariates, Problem, Scan, Subject
from sadm_ray.data.find.study_tables import EMPTY_FILE, first_line, map_in_threads, parse_number
from sadm_ray.errors import DataError
from sadm_ray.storage import IMAGE_SUFFIXES, Entry, Storage

INFO = "Info.cfg"
INFO_LIMIT = 64 * 2**10
"""Bytes; a real one has a hundred."""

_FILE = re.compile(r"(?P<folder>(?:(?:training|testing)/)?(?P<name>[^/]+))/(?P<file>[^/]+)")
_UNPACKED = re.compile(r"(?P<folder>.+\.nii(?:\.gz)?)/[^/]+\.nii(?:\.gz)?")
"""A scan in a folder that has its name, as some programs unpack archives."""


@dataclass(slots=True)
class _Folder:
    """A patient's folder: its path, the patient's name, and its images and `Info.cfg`."""

    path: str
    name: str
    files: dict[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class _Info:
    """What `Info.cfg` says; frames count from 1."""

    ed: int
    es: int
    covariates: Covariates


def find_acdc(root: str, settings: DataSettings) -> Catalog:
    """Find the subjects below `root`, or below its `training/` and `testing/`.

    A name that occurs twice is a problem of both folders, since neither may stand for the other. Whether ED and ES are
    frames of the cine is checked when it is opened.

    Raises:
        DataError: `root` is missing or holds no patient folder at all.
    """
    storage = Storage(root)
    folders = sorted(_folders(storage), key=lambda folder: (folder.name, folder.path))
    if not folders:
        raise DataError(
            f"{root}: no patient folders here or in training/; data.root must be the folder of patientNNN/ with an "
            f"{INFO} each (data.layout=acdc)"
        )
    occurrences = Counter(folder.name for folder in folders)
    subjects: list[Subject] = []
    problems: list[Problem] = []
    for folder, info in zip(folders, map_in_threads(lambda folder: _read_info(folder, storage), folders), strict=True):
        if occurrences[folder.name] > 1:
            message = "another folder has the same name; rename one of them"
            problems.append(Problem(folder.name, storage.where(folder.path), message))
        elif not SAFE_NAME.fullmatch(folder.name):
            message = "not a usable name; rename it with letters, digits, '_', '-' and '.' only"
            problems.append(Problem(folder.name, storage.where(folder.path), message))
        elif not isinstance(info, _Info):
            problems += info
        else:
            found = _subject(folder, info, storage)
            if isinstance(found, Subject):
                subjects.append(found)
            else:
                problems += found
    unit = settings.time_unit or "cardiac phase (ED 0, ES 1)"
    return Catalog(storage.location, tuple(subjects), tuple(problems), unit)


def _folders(storage: Storage) -> list[_Folder]:
    """The patients' folders: those with a scan or an `Info.cfg`, and those named `patient…`, with or without a scan.

    `Info.cfg` may be written in any case. A folder with the name of a scan stands for the only scan in it.
    """
    folders: dict[str, _Folder] = {}
    for path, entry in _unpacked(storage.entries(), storage):
        match = _FILE.fullmatch(path)
        if match is None or match["folder"] in ("training", "testing"):
            continue
        file = INFO if match["file"].lower() == INFO.lower() else match["file"]
        is_used = file == INFO or file.endswith(IMAGE_SUFFIXES)
        if is_used or match["name"].startswith("patient"):
            folder = folders.setdefault(match["folder"], _Folder(match["folder"], match["name"]))
            if is_used and not (file == INFO and match["file"] != INFO and INFO in folder.files):
                folder.files[file] = entry
    return list(folders.values())


def _unpacked(entries: Sequence[Entry], storage: Storage) -> Iterator[tuple[str, Entry]]:
    """All files, and the paths to look them up by: that of the folder for a scan alone in a folder named `.nii`."""
    inside: dict[str, list[Entry]] = {}
    for entry in entries:
        if match := _UNPACKED.fullmatch(entry.path):  # as URLs list them
            inside.setdefault(match["folder"], []).append(entry)
        elif not entry.size and entry.path.endswith(IMAGE_SUFFIXES):
            inside.setdefault(entry.path, []).extend(_images_in(entry.path, storage))
        else:
            yield entry.path, entry
    for path, images in inside.items():
        yield path, images[0] if len(images) == 1 else Entry(path, 0, 0)


def _images_in(folder: str, storage: Storage) -> list[Entry]:
    """The scans directly in a folder; none if it is no folder."""
    try:
        found = [storage.entry(path) for path in storage.files(folder) if path.endswith(IMAGE_SUFFIXES)]
    except (OSError, pa.ArrowException):
        return []
    return [entry for entry in found if entry is not None]


def _read_info(folder: _Folder, storage: Storage) -> _Info | list[Problem]:
    entry = folder.files.get(INFO)
    path = entry.path if entry else f"{folder.path}/{INFO}"
    file = storage.where(path)
    if entry is None:
        return [Problem(folder.name, file, "no such file; add it with lines 'ED: 1' and 'ES: 12'")]
    if not entry.size:
        return [Problem(folder.name, file, EMPTY_FILE)]
    if entry.size > INFO_LIMIT:
        return [Problem(folder.name, file, f"has {entry.size:,} bytes where a few lines are expected; replace it")]
    try:
        text = storage.read(path).decode("utf-8-sig", errors="replace")
    except (OSError, pa.ArrowException) as error:
        return [Problem(folder.name, file, f"cannot be read ({first_line(error)}); copy it again from its source")]
    entries = {
        key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in text.splitlines()) if colon
    }
    faults = []
    for key in ("ED", "ES"):
        if key not in entries:
            faults.append(f"has no {key}; add a line '{key}: <frame, from 1>'")
        elif not re.fullmatch(r"[0-9]{1,9}", entries[key]):
            faults.append(f"{key} is {entries[key][:50]!r}; give the number of a frame, from 1")
    if not faults and int(entries["ED"]) == int(entries["ES"]):
        faults.append(f"ED and ES are both frame {entries['ED']}, which leaves no sequence; correct one of them")
    if faults:
        return [Problem(folder.name, file, fault) for fault in faults]
    return _Info(int(entries["ED"]), int(entries["ES"]), _covariates(entries))


def _covariates(entries: Mapping[str, str]) -> Covariates:
    sizes = {key.lower(): parse_number(entries.get(key, "")) for key in ("Height", "Weight")}
    covariates: dict[str, float | str] = {key: size for key, size in sizes.items() if size is not None}
    if entries.get("Group"):
        covariates["group"] = entries["Group"]
    if entries.get("Treatment"):
        covariates["treatment"] = entries["Treatment"]
    return covariates


def _subject(folder: _Folder, info: _Info, storage: Storage) -> Subject | list[Problem]:
    """The cine of a patient, or else its two frames. Label maps (`_gt`) have other names."""
    group = str(info.covariates.get("group", ""))
    stem = f"{folder.name}_4d"
    cine = _entries(folder, stem)
    if len(cine) > 1:
        return [_two_files(folder, cine, storage)]
    if crowded := [problem for entry in cine for problem in _crowded(folder, entry, storage)]:
        return crowded
    if cine:
        scan = Scan(cine[0].path, "", None, cine[0].size, cine[0].modified)
        return Subject(folder.name, (scan,), group, (info.ed, info.es), info.covariates)
    scans, problems = [], []
    for session, frame, time in (("ED", info.ed, 0.0), ("ES", info.es, 1.0)):
        stem = f"{folder.name}_frame{frame:02d}"
        files = _entries(folder, stem)
        if len(files) > 1:
            problems.append(_two_files(folder, files, storage))
        elif files and (crowded := _crowded(folder, files[0], storage)):
            problems += crowded
        elif files:
            scans.append(Scan(files[0].path, session, time, files[0].size, files[0].modified))
        else:
            file = storage.where(f"{folder.path}/{stem}.nii.gz")
            problems.append(Problem(folder.name, file, f"no such file, nor {folder.name}_4d.nii.gz; add one of them"))
    return problems or Subject(folder.name, tuple(scans), group, None, info.covariates)


def _entries(folder: _Folder, stem: str) -> list[Entry]:
    return [folder.files[stem + suffix] for suffix in IMAGE_SUFFIXES if stem + suffix in folder.files]


def _crowded(folder: _Folder, entry: Entry, storage: Storage) -> list[Problem]:
    """The problem of a folder in the place of a scan that holds several."""
    images = [] if entry.size else _images_in(entry.path, storage)
    if len(images) < 2:
        return []
    message = f"is a folder that holds {len(images)} scans; keep one of them, or move it to the place of the folder"
    return [Problem(folder.name, storage.where(entry.path), message)]


def _two_files(folder: _Folder, entries: list[Entry], storage: Storage) -> Problem:
    two = " and ".join(entry.path.rpartition("/")[2] for entry in entries)
    return Problem(folder.name, storage.where(entries[0].path), f"two files for one scan, {two}; remove one of them")
