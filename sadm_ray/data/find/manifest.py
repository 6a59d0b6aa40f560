"""Find the subjects of a study listed in one table, a row a scan: a .csv, .tsv or .parquet manifest.

Columns: `subject` and `path` (relative to the manifest's folder, absolute, or a URL); where wanted `session`, a time,
`split` (train, val or test), `group`, and `labels`, the label map of the scan (`sadm_ray.data.find.label_files`). All
others, and the group, are covariates: of a visit if they vary within any subject, else of the subject. A subject with
one row and no time is a 4D file.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from sadm_ray.config import SAFE_NAME, DataSettings, is_url
from sadm_ray.data.find.catalog import SPLITS, Catalog, Problem, Scan, Subject
from sadm_ray.data.find.study_tables import covariates_of, first_line, map_in_threads, read_table, shared_columns
from sadm_ray.data.find.time_column import (
    ORDER,
    USUAL_TIME_COLUMNS,
    Visit,
    dates_remark,
    exact_dates,
    is_coarse,
    time_column,
)
from sadm_ray.data.find.time_units import some, unit_of
from sadm_ray.data.find.visit_times import StudyTimes, order_remark, order_visits, read_times
from sadm_ray.errors import DataError
from sadm_ray.storage import IMAGE_SUFFIXES, Entry, Storage

FRAME_TIME_UNIT = "s"
"""The unit of the times in the header of a 4D file, as `read_image` gives them."""

_OWN_COLUMNS = ("subject", "path", "session", "split", "group", "labels")


@dataclass
class _Manifest:
    """What has been read: the visits of each subject, the number of its rows (bad ones too), the row of each file.

    `row_of_visit` is the row of each (subject, session); `unexpected` has the scans of those whose names contradict
    the order of their times.
    """

    storage: Storage
    file: str
    columns: tuple[str, ...]
    min_scans: int  # scans of a subject
    problems: list[Problem] = field(default_factory=list)
    visits: dict[str, list[Visit]] = field(default_factory=dict)
    row_counts: Counter[str] = field(default_factory=Counter)
    row_of_file: dict[str, int] = field(default_factory=dict)
    row_of_visit: dict[tuple[str, str], int] = field(default_factory=dict)
    unexpected: dict[str, tuple[Scan, ...]] = field(default_factory=dict)

    def file_key(self, path: str) -> str:
        """One key for all ways to write the path of a file."""
        return posixpath.normpath(self.storage.where(path))


def find_manifest(root: str, settings: DataSettings) -> Catalog:
    """Find the subjects that the manifest `root` lists.

    Raises:
        DataError: there is no such file, it is no such table, or it has no rows; or no column has the times.
    """
    if not root.lower().endswith((".csv", ".tsv", ".parquet")):
        raise DataError(f"{root}: data.layout=manifest needs data.root to be a .csv, .tsv or .parquet file")
    full = root if is_url(root) else str(Path(root).expanduser().absolute())
    folder, _, name = full.rpartition("/")
    manifest = _read_rows(Storage(folder or "/", scattered=True), name, settings.min_scans)
    _look_up(manifest)
    column = _match_times(manifest, settings.time_column)
    times = read_times(column or "time", manifest.visits, settings, manifest.file)
    manifest.problems += times.problems
    splits = {
        subject: _split(manifest, subject, subject_visits)
        for subject, subject_visits in sorted(manifest.visits.items())
    }
    shared = shared_columns([visit.row for visit in subject_visits] for subject_visits in manifest.visits.values())
    subjects = []
    for subject, split in splits.items():
        if split is None:
            continue
        subject_visits = manifest.visits[subject]
        row = {name: value for visit in subject_visits for name, value in visit.row.items() if name in shared}
        groups = dict.fromkeys(visit.row["group"] for visit in subject_visits if "group" in visit.row)
        if len(groups) > 1:
            message = (
                f"its group is {' and '.join(map(repr, groups))}; the first is used: correct the rows if that is wrong"
            )
            manifest.problems.append(Problem(subject, manifest.file, message, fatal=False))
        for visit in subject_visits:
            visit.row = {name: value for name, value in visit.row.items() if name not in shared}
        if scans := _scans(manifest, subject, times):
            group = next(iter(groups), "")
            subjects.append(Subject(subject, scans, group, covariates=covariates_of(row), split=split or None))
    manifest.problems += order_remark(manifest.unexpected, times, manifest.storage)
    unit = times.unit if column else settings.time_unit or FRAME_TIME_UNIT
    series = [subject.name for subject in subjects if subject.scans[0].time is None]
    if column and 0 < len(series) < len(subjects) and unit_of(unit) != unit_of(FRAME_TIME_UNIT):
        message = (
            f"the frames of {len(series)} 4D files ({some(series)}) have times in {FRAME_TIME_UNIT}, the visits of "
            f"other subjects in {unit}; prepare them as two studies, unless that is meant"
        )
        manifest.problems.append(Problem("", manifest.file, message, fatal=False))
    return Catalog(manifest.storage.location, tuple(subjects), tuple(manifest.problems), unit)


def _read_rows(storage: Storage, name: str, min_scans: int) -> _Manifest:
    """All valid rows, as visits whose files have not been looked up."""
    try:
        entry = storage.entry(name)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{storage.where(name)}: cannot be read ({first_line(error)}); check data.root") from None
    if entry is None:
        raise DataError(f"{storage.where(name)}: no such file; set data.root to the manifest")
    table = read_table(storage, entry)
    manifest = _Manifest(storage, table.file, table.columns, min_scans)
    columns = {name: table.named(name) for name in _OWN_COLUMNS}
    if not columns["subject"] or not columns["path"]:
        found_columns = ", ".join(table.columns)
        raise DataError(
            f"{table.file}: needs the columns subject and path, separated as its ending says; it has {found_columns}"
        )
    for number, row in table.rows(manifest.problems):
        fields = {name: row.pop(column) for name, column in columns.items() if column in row}
        subject, session = fields.get("subject", ""), fields.get("session", "")
        safe = SAFE_NAME.fullmatch(subject)
        manifest.row_counts[subject] += 1
        fields["split"] = fields.get("split", "").lower()
        try:
            _check_row(manifest, number, fields)
        except ValueError as error:
            manifest.problems.append(Problem(subject if safe else "", table.file, f"row {number}: {error}"))
            continue
        manifest.row_of_file[manifest.file_key(fields["path"])] = number
        row |= {name: fields[name] for name in ("split", "group") if fields.get(name)}
        manifest.visits.setdefault(subject, []).append(Visit(Entry(fields["path"], 0, 0), session, row))
    if not manifest.row_counts:
        problems = [str(problem) for problem in manifest.problems]
        raise DataError(f"{table.file}: has no rows; data.root must list the scans, a row each", problems)
    return manifest


def _check_row(manifest: _Manifest, number: int, fields: Mapping[str, str]) -> None:
    """Raises ValueError: what is wrong with a row, and how to mend it."""
    for name in ("subject", "path"):
        if not fields.get(name):
            raise ValueError(f"has no {name}; fill it in (n/a, NA and nan stand for what is missing)")
    for name in ("subject", "session"):
        if name in fields and not SAFE_NAME.fullmatch(fields[name]):
            raise ValueError(
                f"{name} {fields[name]!r} is not a usable name; use letters, digits, '_', '-' and '.' only"
            )
    if fields["split"] not in ("", *SPLITS):
        raise ValueError(f"split is {fields['split']!r}; it must be train, val, test or empty")
    path = fields["path"]
    if not path.lower().endswith(IMAGE_SUFFIXES):
        raise ValueError(f"{path!r} is no .nii or .nii.gz file; convert it")
    if not _is_absolute(path) and ".." in path.split("/"):
        raise ValueError(f"{path!r} leads out of the folder of the manifest; give it as an absolute path or a URL")
    if (other := manifest.row_of_file.get(manifest.file_key(path))) is not None:
        raise ValueError(f"lists the same file as row {other}, {path}; remove one of them")
    visit = fields["subject"], fields.get("session", "")
    if visit[1] and manifest.row_of_visit.setdefault(visit, number) != number:
        raise ValueError(f"has the same subject and session as row {manifest.row_of_visit[visit]}; remove one of them")


def _is_absolute(path: str) -> bool:
    return is_url(path) or path.startswith("/")


def _look_up(manifest: _Manifest) -> None:
    """Look up the size and time of change of each file; visits of missing files become problems.

    Behind a URL, one listing of the folder is quicker than a request a file; on this machine it is not.
    """
    paths = [visit.entry.path for subject_visits in manifest.visits.values() for visit in subject_visits]
    listed: dict[str, Entry] = {}
    if is_url(manifest.storage.location) and not all(map(_is_absolute, paths)):
        listed = {
            entry.path: entry
            for entry in manifest.storage.entries()
            if manifest.file_key(entry.path) in manifest.row_of_file
        }

    def look_up(path: str) -> Entry | str:
        try:
            if listed and not _is_absolute(path):
                return listed.get(posixpath.normpath(path)) or "no such file"
            return manifest.storage.entry(path) or "no such file"
        except (OSError, ValueError, pa.ArrowException, DataError) as error:
            return f"cannot be looked up ({first_line(error)})"

    found = map_in_threads(look_up, paths)
    for subject, subject_visits in manifest.visits.items():
        kept = []
        for visit, entry in zip(subject_visits, found, strict=False):  # takes as many as this subject has
            if isinstance(entry, Entry):
                visit.entry = entry
                kept.append(visit)
                continue
            path = visit.entry.path
            row = manifest.row_of_file[manifest.file_key(path)]
            message = f"{entry}; row {row} of the manifest lists it: correct its path"
            manifest.problems.append(Problem(subject, manifest.storage.where(path), message))
        manifest.visits[subject] = kept


def _match_times(manifest: _Manifest, wanted: str) -> str | None:
    """Give each visit its time, and return the column; none if there is none, since 4D files need none."""
    if wanted == ORDER:
        return ORDER
    filled: Counter[str] = Counter(dict.fromkeys(filter(None, manifest.columns), 0))
    for subject_visits in manifest.visits.values():
        for visit in subject_visits:
            filled.update(visit.row.keys())
    column = time_column(wanted, filled, ("time", *USUAL_TIME_COLUMNS))
    if column is None and (wanted != "auto" or min(manifest.row_counts.values()) > 1):
        missing = "no column says when a visit was" if wanted == "auto" else f"has no column {wanted}"
        others = [name for name in manifest.columns if name and name.lower() not in _OWN_COLUMNS]
        mend = f"set data.time_column={ORDER} to number the visits"
        mend = f"set data.time_column to one of {', '.join(others)}, or {mend}" if others else f"add one, or {mend}"
        problems = [str(problem) for problem in manifest.problems]
        raise DataError(f"{manifest.file}: {missing}, only {', '.join(manifest.columns)}; {mend}", problems)
    if column and wanted == "auto" and is_coarse(manifest.visits, column):
        dates = exact_dates(manifest.visits, column)
        if dates:
            manifest.problems.append(dates_remark(column, dates, manifest.file))
            column = dates
    for subject_visits in manifest.visits.values():
        for visit in subject_visits:
            visit.time = visit.row.pop(column, None) if column else None
    return column


def _split(manifest: _Manifest, subject: str, subject_visits: Sequence[Visit]) -> str | None:
    """The split of the subject in the manifest, empty if there is none; none if its rows contradict each other."""
    splits = {split for visit in subject_visits if (split := visit.row.pop("split", ""))}
    if len(splits) < 2:
        return splits.pop() if splits else ""
    message = f"its rows have the splits {' and '.join(sorted(splits))}; give all of them the same"
    manifest.problems.append(Problem(subject, manifest.file, message))
    return None


def _scans(manifest: _Manifest, subject: str, times: StudyTimes) -> tuple[Scan, ...]:
    """The scans of a subject in the order of time, none if they are no sequence."""
    subject_visits, listed = manifest.visits[subject], manifest.row_counts[subject]
    if listed == 1 and subject_visits and subject_visits[0].time is None:
        entry = subject_visits[0].entry
        return (Scan(entry.path, "", None, entry.size, entry.modified, covariates_of(subject_visits[0].row)),)
    if subject_visits and times.column != ORDER and not any(visit.time for visit in subject_visits):
        message = f"its {listed} rows have no {times.column}; fill it in, or set data.time_column={ORDER}"
        manifest.problems.append(Problem(subject, manifest.file, message))
        return ()
    if any(visit.session for visit in subject_visits):
        for visit in subject_visits:
            if not visit.session:
                message = "its row has no session, while others of the subject have one; fill it in"
                manifest.problems.append(Problem(subject, manifest.storage.where(visit.entry.path), message))
        subject_visits = [visit for visit in subject_visits if visit.session]
    ordered = order_visits(subject, subject_visits, times, manifest.storage, manifest.min_scans)
    manifest.problems += ordered.problems
    if ordered.is_unexpected:
        manifest.unexpected[subject] = ordered.scans
    return ordered.scans
