"""Inspect an unprepared study: what is in every file, everything that is wrong, and how to mend it.

The catalog lists the study and Ray Data distributes the subjects. A worker reads the scans of a subject and returns a
few numbers, no voxels. Nothing is written but the pictures, if requested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadm_ray.actor_pool import map_in_actor_pool
from sadm_ray.config import DataSettings, Settings
from sadm_ray.data.find import SPLITS, Catalog, Problem, Subject, find_subjects
from sadm_ray.data.find.label_files import LabelFiles, find_labels
from sadm_ray.data.inspect.cohort_checks import cohort_warnings
from sadm_ray.data.inspect.label_checks import check_labels, label_warnings
from sadm_ray.data.normalise.visit_intensity import LARGEST_RATIO
from sadm_ray.data.read.rigid_registration import require_registration
from sadm_ray.data.read.subject_scans import Frame, ScanFacts, read_scans
from sadm_ray.data.read.visit_comparison import BesideFirst, VisitComparison
from sadm_ray.data.shared_scans import shared_scans
from sadm_ray.data.splits import split_subjects
from sadm_ray.errors import ConfigError
from sadm_ray.storage import Storage

if TYPE_CHECKING:
    from sadm_ray.data.inspect.contact_sheet import ContactSheet

SCHEMA_VERSION = 1

Record = dict[str, Any]
"""A subject: `subject`, `group`, `split`, `usable` and its `visits`, a file each (`_visit`).

With several contrasts also `contrasts`: those that each visit has, by its session."""


@dataclass(frozen=True)
class Inspection:
    """A record for every subject, also for those that cannot be used, and all problems."""

    root: str
    time_unit: str
    records: tuple[Record, ...]
    problems: tuple[Problem, ...]

    @property
    def failed(self) -> bool:
        """Whether anything would be left out."""
        return any(problem.fatal for problem in self.problems)

    @property
    def counts(self) -> dict[str, Any]:
        """Subjects, those of them that can be used and how they are split, visits, bytes, problems, warnings."""
        visits = [visit for record in self.records for visit in record["visits"]]
        splits = Counter(record["split"] for record in self.records if record["usable"])
        return {
            "subjects": len(self.records),
            "usable": sum(record["usable"] for record in self.records),
            "splits": {split: splits[split] for split in SPLITS},
            "visits": sum(map(visit_count, self.records)),
            "bytes": sum(visit["bytes"] for visit in visits),
            "problems": sum(problem.fatal for problem in self.problems),
            "warnings": sum(not problem.fatal for problem in self.problems),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, for other programs."""
        return {
            "schema_version": SCHEMA_VERSION,
            "root": self.root,
            "time_unit": self.time_unit,
            "counts": self.counts,
            "subjects": list(self.records),
            "problems": [asdict(problem) for problem in self.problems],
        }


def inspect_study(settings: Settings, root: str, pictures: Path | None = None) -> Inspection:
    """Read every scan of the study at `root` once. Needs a running Ray.

    Args:
        pictures: the folder for a picture of every subject; every machine that reads writes into its own.

    Raises:
        DataError: `root` is missing, cannot be listed, or holds no subject at all.
        ConfigError: `pictures` cannot be made, or `data.register` needs a library that is not installed.
    """
    folder = None if pictures is None else _make_folder(pictures)
    require_registration(settings.data.register)
    catalog = find_subjects(root, settings.data)
    labels = find_labels(root, settings.data.layout, settings.data.labels, settings.data.suffixes)
    records, problems = _read_all(catalog, settings.data, folder, labels)
    problems += [*catalog.problems, *labels.problems, *label_warnings(records, labels)]
    split_of = split_subjects(catalog.subjects, settings.data.split, settings.seed)
    unread = {problem.subject for problem in problems} - {record["subject"] for record in records} - {""}
    records += [_record(Subject(name, ())) for name in unread]
    for record in records:
        record["split"] = split_of.get(record["subject"])
    records.sort(key=lambda record: record["subject"])
    problems += [Problem("", root, line, fatal=False) for line in cohort_warnings(records, settings.data)]
    problems += shared_scans(((record["subject"], _scan_digests(record)) for record in records), root)
    problems.sort(key=lambda problem: (problem.subject, problem.file, problem.message))
    return Inspection(root, catalog.time_unit, tuple(records), tuple(problems))


def _scan_digests(record: Record) -> list[str]:
    return [digest for visit in record["visits"] for digest in visit["voxels"]]


def _make_folder(pictures: Path) -> str:
    folder = pictures.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--pictures: {folder} cannot be made ({error.strerror}); choose another folder") from None
    return str(folder)


def _read_all(
    catalog: Catalog, settings: DataSettings, pictures: str | None, labels: LabelFiles
) -> tuple[list[Record], list[Problem]]:
    records: list[Record] = []
    problems: list[Problem] = []
    arguments: dict[str, Any] = {
        "source": catalog.folder,
        "settings": settings,
        "unit": catalog.time_unit,
        "pictures": pictures,
        "labels": labels,
    }
    for outcome in map_in_actor_pool("inspect", catalog.subjects, [1] * len(catalog.subjects), _inspect, **arguments):
        records.append(outcome["record"])
        problems += [Problem(**problem) for problem in outcome["problems"]]
    return records, problems


def _inspect(subject: Subject, **arguments: Any) -> dict[str, Any]:
    record, problems = inspect_subject(subject, **arguments)
    return {"record": record, "problems": [asdict(problem) for problem in problems]}


def inspect_subject(
    subject: Subject,
    source: str,
    settings: DataSettings,
    unit: str,
    pictures: str | None = None,
    labels: LabelFiles | None = None,
) -> tuple[Record, list[Problem]]:
    """A subject's record and its problems; any error concerns this subject only."""
    storage = Storage(source, scattered=True)
    labels = labels or LabelFiles(source, settings.layout)
    record, problems = _record(subject), []
    sheet = None if pictures is None else _new_sheet()
    frames: list[Frame] = []  # of the file that is being read, without their voxels
    comparisons, beside = {contrast: VisitComparison() for contrast in settings.contrasts}, None
    try:
        limit = int(settings.max_scan_gb * 1e9)
        for found in read_scans(subject, storage, limit, settings.min_scans, settings.register):
            if isinstance(found, Problem):
                problems.append(found)
            elif isinstance(found, ScanFacts):
                visit = _visit(found, frames, beside, storage)
                visit["labels"], wrong = check_labels(subject.name, found, frames, labels, record["visits"])
                record["visits"].append(visit)
                problems += [problem for problem in wrong if problem not in problems]
                if beside is not None:
                    lines = (*beside.warnings, *_gain(beside, settings))
                    problems += [Problem(subject.name, storage.where(found.file), line, fatal=False) for line in lines]
                frames = []
            else:
                if not frames:
                    beside = comparisons[found.contrast].beside_first(found.volume, found.spacing[::-1])
                frames.append(found.without_volume())
                if sheet is not None:
                    title = f"{found.time:.6g} {found.contrast}".rstrip()
                    sheet.add(title, found.volume, found.affine, found.spacing, beside)
    except Exception as error:
        problems.append(_unexpected(subject, storage.where(subject.scans[0].file), error, fatal=True))
    if sheet is not None and sheet.seen:
        picture = f"{subject.name}.png"
        try:
            Storage(str(pictures)).write(picture, sheet.draw(f"{subject.name}  ·  {unit}"))
        except Exception as error:
            problems.append(_unexpected(subject, f"{pictures}/{picture}", error, fatal=False))
    if len(settings.contrasts) > 1:
        record["contrasts"] = {}
        for visit in record["visits"]:
            record["contrasts"].setdefault(visit["session"], []).append(visit["contrast"])
    record["usable"] = visit_count(record) >= settings.min_scans
    return record, problems


def visit_count(record: Record) -> int:
    """How many visits a subject has: frames, or the sessions of several contrasts."""
    if "contrasts" in record:
        return len(record["contrasts"])
    return sum(visit["frames"] for visit in record["visits"])


def _gain(beside: BesideFirst, settings: DataSettings) -> list[str]:
    """A line where the visit is much brighter or darker than the first and shares its range of intensities."""
    if settings.intensity.over == "visit" or 1 / LARGEST_RATIO <= beside.level <= LARGEST_RATIO:
        return []
    return [f"is {beside.level:.2g} times as bright as the first visit; set data.intensity.over=visit"]


def _new_sheet() -> ContactSheet:
    from sadm_ray.data.inspect.contact_sheet import ContactSheet  # imports matplotlib, which is slow

    return ContactSheet()


def _record(subject: Subject) -> Record:
    return {"subject": subject.name, "group": subject.group, "split": None, "usable": False, "visits": []}


def _visit(facts: ScanFacts, frames: Sequence[Frame], beside: BesideFirst | None, storage: Storage) -> dict[str, Any]:
    """`frames` of the `stored` ones are used, at times `first` to `last`; shape and spacing (mm) are of (x, y, z).

    `beside` compares the visit with the subject's first (`BesideFirst`; null for that one itself). `labels`, which is
    added, are its label maps (`label_checks.Facts`).
    """
    times = [frame.time for frame in frames]
    return {
        "session": facts.session,
        **({"contrast": facts.contrast} if facts.contrast else {}),
        "file": storage.where(facts.file),
        "frames": len(times),
        "stored": facts.count,
        "first": times[0],
        "last": times[-1],
        "shape": list(facts.shape),
        "spacing": [float(size) for size in facts.spacing],
        "orientation": facts.orientation,
        "dtype": facts.dtype,
        "low": facts.low,
        "high": facts.high,
        "bytes": facts.size,
        "beside": None if beside is None else asdict(beside),
        "voxels": [frame.digest for frame in frames if frame.digest],
    }


def _unexpected(subject: Subject, file: str, error: Exception, fatal: bool) -> Problem:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Problem(subject.name, file, f"{reason}; look at the file or report a bug", fatal)
