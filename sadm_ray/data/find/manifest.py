"""Find the subjects of a study that is told by one table, a row a scan: a .csv, .tsv or .parquet manifest.

Columns: `subject` and `path` (relative to the manifest's folder, absolute, or a URL); where wanted `session`, a time,
`split` (train, val or test) and `group`. All others, and the group, are covariates: of a visit if they vary within any
subject, else of the subject. A subject with one row and no time is a 4D file.
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
from sadm_ray.data.find.study_tables import covariates_of, map_in_threads, read_table, reason, shared_columns
from sadm_ray.data.find.visit_times import ORDER, USUAL_TIMES, Clock, Visit, order_visits, time_column
from sadm_ray.errors import DataError
from sadm_ray.storage import IMAGE_SUFFIXES, Entry, Storage


@dataclass
class _Study:
    """What has been read: the visits of each subject, the number of its rows (bad ones too), the row of each file.

    `taken` are the rows of (subject, session).
    """

    storage: Storage
    file: str
    columns: tuple[str, ...]
    least: int  # scans of a subject
    problems: list[Problem] = field(default_factory=list)
    visits: dict[str, list[Visit]] = field(default_factory=dict)
    listed: Counter[str] = field(default_factory=Counter)
    rows: dict[str, int] = field(default_factory=dict)
    taken: dict[tuple[str, str], int] = field(default_factory=dict)

    def key(self, path: str) -> str:
        """The same for all ways to write the path of one file."""
        return posixpath.normpath(self.storage.where(path))


def find_manifest(root: str, settings: DataSettings) -> Catalog:
    """Find the subjects that the manifest `root` lists.

    Raises:
        DataError: there is no such file, it is no such table, or it has no rows; or no column tells the times.
    """
    if not root.lower().endswith((".csv", ".tsv", ".parquet")):
        raise DataError(f"{root}: data.layout=manifest needs data.root to be a .csv, .tsv or .parquet file")
    full = root if is_url(root) else str(Path(root).expanduser().absolute())
    folder, _, name = full.rpartition("/")
    study = _read_rows(Storage(folder or "/"), name, settings.min_scans)
    _look_up(study)
    column = _match_times(study, settings.time_column)
    clock = Clock.of(column or "time", (visit.time for its in study.visits.values() for visit in its), settings)
    splits = {subject: _split(study, subject, its) for subject, its in sorted(study.visits.items())}
    shared = shared_columns([visit.row for visit in its] for its in study.visits.values())
    subjects = []
    for subject, split in splits.items():
        if split is None:
            continue
        its = study.visits[subject]
        row = {name: word for visit in its for name, word in visit.row.items() if name in shared}
        groups = dict.fromkeys(visit.row["group"] for visit in its if "group" in visit.row)
        if len(groups) > 1:
            told = (
                f"its group is {' and '.join(map(repr, groups))}; the first is used: correct the rows if that is wrong"
            )
            study.problems.append(Problem(subject, study.file, told, fatal=False))
        for visit in its:
            visit.row = {name: word for name, word in visit.row.items() if name not in shared}
        if scans := _scans(study, subject, clock):
            group = next(iter(groups), "")
            subjects.append(Subject(subject, scans, group, covariates=covariates_of(row), split=split or None))
    unit = clock.unit if column else settings.time_unit or "frame time"
    return Catalog(study.storage.location, tuple(subjects), tuple(study.problems), unit)


def _read_rows(storage: Storage, name: str, least: int) -> _Study:
    """All rows that can be used, as visits whose files have not been looked at."""
    try:
        entry = storage.entry(name)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{storage.where(name)}: cannot be read ({reason(error)}); check data.root") from None
    if entry is None:
        raise DataError(f"{storage.where(name)}: no such file; set data.root to the manifest")
    table = read_table(storage, entry)
    study = _Study(storage, table.file, table.columns, least)
    columns = {name: table.named(name) for name in ("subject", "path", "session", "split", "group")}
    if not columns["subject"] or not columns["path"]:
        there = ", ".join(table.columns)
        raise DataError(
            f"{table.file}: needs the columns subject and path, separated as its ending says; it has {there}"
        )
    for number, row in table.rows(study.problems):
        told = {name: row.pop(column) for name, column in columns.items() if column in row}
        subject, session = told.get("subject", ""), told.get("session", "")
        safe = SAFE_NAME.fullmatch(subject)
        study.listed[subject] += 1
        told["split"] = told.get("split", "").lower()
        try:
            _check_row(study, number, told)
        except ValueError as error:
            study.problems.append(Problem(subject if safe else "", table.file, f"row {number}: {error}"))
            continue
        study.rows[study.key(told["path"])] = number
        row |= {name: told[name] for name in ("split", "group") if told.get(name)}
        study.visits.setdefault(subject, []).append(Visit(Entry(told["path"], 0, 0), session, row))
    if not study.listed:
        wrong = [str(problem) for problem in study.problems]
        raise DataError(f"{table.file}: has no rows; data.root must list the scans, a row each", wrong)
    return study


def _check_row(study: _Study, number: int, told: Mapping[str, str]) -> None:
    """Raises ValueError: what is wrong with a row, and the mend."""
    for name in ("subject", "path"):
        if not told.get(name):
            raise ValueError(f"has no {name}; fill it in")
    for name in ("subject", "session"):
        if name in told and not SAFE_NAME.fullmatch(told[name]):
            raise ValueError(f"{name} {told[name]!r} is not a usable name; use letters, digits, '_', '-' and '.' only")
    if told["split"] not in ("", *SPLITS):
        raise ValueError(f"split is {told['split']!r}; it must be train, val, test or empty")
    path = told["path"]
    if not path.lower().endswith(IMAGE_SUFFIXES):
        raise ValueError(f"{path!r} is no .nii or .nii.gz file; convert it")
    if not _is_absolute(path) and ".." in path.split("/"):
        raise ValueError(f"{path!r} leads out of the folder of the manifest; give it as an absolute path or a URL")
    if (other := study.rows.get(study.key(path))) is not None:
        raise ValueError(f"lists the same file as row {other}, {path}; remove one of them")
    visit = told["subject"], told.get("session", "")
    if visit[1] and study.taken.setdefault(visit, number) != number:
        raise ValueError(f"has the same subject and session as row {study.taken[visit]}; remove one of them")


def _is_absolute(path: str) -> bool:
    return is_url(path) or path.startswith("/")


def _look_up(study: _Study) -> None:
    """Size and time of change of each file. Those that are not there are problems, and their visits go.

    Behind a URL, one listing of the folder is quicker than to ask for each file; on this machine it is not.
    """
    paths = [visit.entry.path for its in study.visits.values() for visit in its]
    listed: dict[str, Entry] = {}
    if is_url(study.storage.location) and not all(map(_is_absolute, paths)):
        listed = {entry.path: entry for entry in study.storage.entries() if study.key(entry.path) in study.rows}

    def look_up(path: str) -> Entry | str:
        try:
            if listed and not _is_absolute(path):
                return listed.get(posixpath.normpath(path)) or "no such file"
            return study.storage.entry(path) or "no such file"
        except (OSError, ValueError, pa.ArrowException, DataError) as error:
            return f"cannot be looked up ({reason(error)})"

    found = map_in_threads(look_up, paths)
    for subject, its in study.visits.items():
        kept = []
        for visit, entry in zip(its, found, strict=False):  # as many of them as this subject has
            if isinstance(entry, Entry):
                visit.entry = entry
                kept.append(visit)
                continue
            path = visit.entry.path
            told = f"{entry}; row {study.rows[study.key(path)]} of the manifest lists it: correct its path"
            study.problems.append(Problem(subject, study.storage.where(path), told))
        study.visits[subject] = kept


def _match_times(study: _Study, wanted: str) -> str | None:
    """Give each visit its time, and return the column; none where there is none, as 4D files need it not."""
    if wanted == ORDER:
        return ORDER
    filled: Counter[str] = Counter(dict.fromkeys(filter(None, study.columns), 0))
    for its in study.visits.values():
        for visit in its:
            filled.update(visit.row.keys())
    column = time_column(wanted, filled, ("time", *USUAL_TIMES))
    if column is None and (wanted != "auto" or min(study.listed.values()) > 1):
        missing = "no column tells when a visit was" if wanted == "auto" else f"has no column {wanted}"
        mend = f"set data.time_column to one of them, or data.time_column={ORDER} to number the visits"
        wrong = [str(problem) for problem in study.problems]
        raise DataError(f"{study.file}: {missing}, only {', '.join(study.columns)}; {mend}", wrong)
    for its in study.visits.values():
        for visit in its:
            visit.time = visit.row.pop(column, None) if column else None
    return column


def _split(study: _Study, subject: str, its: Sequence[Visit]) -> str | None:
    """Where the manifest puts the subject, empty if it does not say; none if it says two things."""
    splits = {split for visit in its if (split := visit.row.pop("split", ""))}
    if len(splits) < 2:
        return splits.pop() if splits else ""
    told = f"its rows have the splits {' and '.join(sorted(splits))}; give all of them the same"
    study.problems.append(Problem(subject, study.file, told))
    return None


def _scans(study: _Study, subject: str, clock: Clock) -> tuple[Scan, ...]:
    """The scans of a subject in the order of time, none if they are no sequence."""
    its, listed = study.visits[subject], study.listed[subject]
    if listed == 1 and its and its[0].time is None:
        entry = its[0].entry
        return (Scan(entry.path, "", None, entry.size, entry.modified, covariates_of(its[0].row)),)
    if its and clock.column != ORDER and not any(visit.time for visit in its):
        told = f"its {listed} rows have no {clock.column}; fill it in, or set data.time_column={ORDER}"
        study.problems.append(Problem(subject, study.file, told))
        return ()
    if any(visit.session for visit in its):
        for visit in its:
            if not visit.session:
                told = "its row has no session, while others of the subject have one; fill it in"
                study.problems.append(Problem(subject, study.storage.where(visit.entry.path), told))
        its = [visit for visit in its if visit.session]
    scans, problems = order_visits(subject, its, clock, study.storage, study.least)
    study.problems += problems
    return scans
