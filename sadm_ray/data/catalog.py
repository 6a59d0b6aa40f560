"""Find the subjects of a study on disk, reading headers and `Info.cfg` only.

The layout is ACDC's (Bernard et al., IEEE TMI 2018): a folder `patientNNN` with `Info.cfg` and either the whole cine
as `patientNNN_4d.nii.gz` or only its end-diastole and end-systole as `patientNNN_frameFF.nii.gz`. A catalog lists
every problem that it meets and keeps every subject that has none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sadm_ray.config import SAFE_NAME
from sadm_ray.data.checks import cycle_faults, open_image
from sadm_ray.errors import DataError

PARTS = (".", "training", "testing")
"""Where patient folders lie below a root: directly, or in the two parts in which ACDC is shipped."""


@dataclass(frozen=True)
class Frame:
    """One scan of a subject.

    `index` is its place (from 0) along the last axis of a 4D file; none where the file is the frame. `time` is the
    cardiac phase, 0 at end-diastole and 1 at end-systole.
    """

    path: Path
    index: int | None
    time: float


@dataclass(frozen=True)
class Subject:
    """A subject and its frames from end-diastole to end-systole, in the order of time.

    `affine` (4 × 4, mm) and `spacing` (mm) belong to the (x, y, z) grid of the files. Both are kept since files exist
    whose affine does not tell the voxel size.
    """

    name: str
    group: str
    frames: tuple[Frame, ...]
    affine: tuple[tuple[float, ...], ...]
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class Problem:
    """Why a subject was left out; `message` is one line that names the file and the mend."""

    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}"


@dataclass(frozen=True)
class Catalog:
    """The usable subjects in the order of their names, and what is wrong with the others."""

    subjects: tuple[Subject, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Cycle:
    """What `Info.cfg` says; frames count from 1."""

    path: Path
    ed: int
    es: int
    group: str


def find_subjects(root: Path) -> Catalog:
    """Find the subjects below `root`, or below its `training/` and `testing/`.

    A name that occurs twice is a problem of both folders, since neither may stand for the other.

    Raises:
        DataError: `root` is missing or holds no patient folder at all.
    """
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; set data.root to the folder that holds the patient folders")
    folders = [folder for part in PARTS if (root / part).is_dir() for folder in _patient_folders(root / part)]
    if not folders:
        raise DataError(f"{root}: no patient folders here or in training/; expected patientNNN/ with an Info.cfg")
    folders.sort(key=lambda folder: (folder.name, str(folder)))
    occurrences = Counter(folder.name for folder in folders)
    subjects: list[Subject] = []
    problems: list[Problem] = []
    for folder in folders:
        if occurrences[folder.name] > 1:
            problems.append(Problem(folder.name, f"{folder}: another folder has the same name; rename one of them"))
            continue
        try:
            subjects.append(_read_subject(folder))
        except DataError as error:
            problems += [Problem(folder.name, line) for line in error.problems or (str(error),)]
    return Catalog(tuple(subjects), tuple(problems))


def _patient_folders(root: Path) -> list[Path]:
    """Folders that are, or are meant to be, patients: an empty `patient007` is a problem worth telling."""
    return [
        folder
        for folder in root.iterdir()
        if folder.is_dir()
        and not folder.name.startswith(".")
        and (folder.name.startswith("patient") or (folder / "Info.cfg").exists() or any(folder.glob("*.nii*")))
    ]


def _read_subject(folder: Path) -> Subject:
    name = folder.name
    if not SAFE_NAME.fullmatch(name):
        raise DataError(f"{folder}: not a usable name; rename it with letters, digits, '_', '-' and '.' only")
    cycle = _read_info(folder / "Info.cfg")
    cine = _file(folder, f"{name}_4d")
    if cine is not None:
        image = open_image(cine, ndim=4)
        frames = _cine_frames(cine, cycle, image.shape[3])
    else:
        frames = _single_frames(folder, cycle)
        image = open_image(frames[0].path, ndim=3)
        other = open_image(frames[1].path, ndim=3)
        if other.shape != image.shape or not np.allclose(other.affine, image.affine, atol=1e-3):
            raise DataError(f"{frames[1].path}: not on the grid of {frames[0].path.name}; resample one onto the other")
    x, y, z = (float(size) for size in image.header.get_zooms()[:3])
    affine = tuple(tuple(float(value) for value in row) for row in image.affine)
    return Subject(name, cycle.group, frames, affine, (x, y, z))


def _read_info(path: Path) -> _Cycle:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); add it with lines 'ED: 1' and 'ES: 12'") from None
    entries = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}
    numbers = {}
    faults = []
    for key in ("ED", "ES"):
        try:
            numbers[key] = int(entries[key])
        except KeyError:
            faults.append(f"{path}: has no {key}; add a line '{key}: <frame, from 1>'")
        except ValueError:
            faults.append(f"{path}: {key} is '{entries[key]}'; give the number of a frame, from 1")
    if faults:
        raise DataError(faults[0], faults)
    return _Cycle(path, numbers["ED"], numbers["ES"], entries.get("Group", ""))


def _cine_frames(path: Path, cycle: _Cycle, count: int) -> tuple[Frame, ...]:
    """Frames ED to ES of a cine of `count` frames. The heart beats on, so ES before ED continues at frame 1."""
    faults = cycle_faults(cycle.path, cycle.ed, cycle.es, count)
    if faults:
        raise DataError(faults[0], faults)
    last = (cycle.es - cycle.ed) % count
    return tuple(Frame(path, (cycle.ed - 1 + step) % count, step / last) for step in range(last + 1))


def _single_frames(folder: Path, cycle: _Cycle) -> tuple[Frame, ...]:
    """End-diastole and end-systole, each a file of its own. Label maps (`_gt`) never match."""
    if cycle.es <= cycle.ed:
        raise DataError(f"{cycle.path}: ES ({cycle.es}) must come after ED ({cycle.ed}) unless there is a 4D file")
    frames, faults = [], []
    for frame, time in ((cycle.ed, 0.0), (cycle.es, 1.0)):
        stem = f"{folder.name}_frame{frame:02d}"
        path = _file(folder, stem)
        if path is None:
            faults.append(f"{folder / stem}.nii.gz: no such file, nor {folder.name}_4d.nii.gz; add one of them")
        else:
            frames.append(Frame(path, None, time))
    if faults:
        raise DataError(faults[0], faults)
    return tuple(frames)


def _file(folder: Path, stem: str) -> Path | None:
    candidates = (folder / f"{stem}.nii.gz", folder / f"{stem}.nii")
    return next((path for path in candidates if path.is_file()), None)
