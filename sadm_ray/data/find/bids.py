"""Find the subjects of a BIDS study (Gorgolewski et al., Scientific Data 2016; bids-specification.readthedocs.io).

A scan is `sub-01/[ses-2/]anat/sub-01_ses-2[_entities]_T1w.nii.gz`. The times of the visits are in
`sub-01/sub-01_sessions.tsv`, or in a `participants.tsv` that has a row for each session.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from sadm_ray.config import SAFE_NAME, DataSettings
from sadm_ray.data.find.catalog import Catalog, Problem, Subject
from sadm_ray.data.find.study_tables import Row, StudyTable, covariates_of, map_in_threads, read_table, shared_columns
from sadm_ray.data.find.visit_times import ORDER, TimeParser, Visit, order_visits, time_column, too_few_visits
from sadm_ray.errors import DataError
from sadm_ray.storage import Entry, Storage

# Only folders sub-* at the top are looked into, so derivatives/, sourcedata/ and code/ are not.
_IMAGE = re.compile(r"(?P<subject>sub-[^/]+)/(?:(?P<session>ses-[^/]+)/)?anat/(?P<stem>[^/]+)\.nii(?:\.gz)?")
_SESSION = re.compile(r"_ses-([^_]+)")

PARTICIPANTS = "participants.tsv"

Rows = dict[tuple[str, ...], Row]
"""Rows by their labels, without `sub-` and `ses-`."""


@dataclass(slots=True)
class _Folder:
    """What lies below `sub-X`: the matching files of each session, all suffixes, and the sessions.tsv."""

    scans: dict[str, list[Entry]] = field(default_factory=dict)
    suffixes: set[str] = field(default_factory=set)
    table: Entry | None = None


@dataclass(frozen=True)
class _TableContent:
    """The content of a table: its columns, its rows, and what is wrong with it."""

    columns: tuple[str, ...] = ()
    rows: Rows = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def find_bids(root: str, settings: DataSettings) -> Catalog:
    """Find the subjects below `root` that have at least two visits with the suffix of the settings.

    Raises:
        DataError: `root` is missing or has no folder sub-*, or no column has the times of the visits.
    """
    storage = Storage(root)
    problems: list[Problem] = []
    folders, participants = _folders(storage, settings, problems)
    if not folders:
        raise DataError(
            f"{root}: no folders sub-* here; data.root must be the folder of a BIDS study (data.layout=bids)"
        )
    visits: dict[str, list[Visit]] = {}
    tables: dict[str, Entry | None] = {}
    for folder_name, folder in sorted(folders.items()):
        name = folder_name.removeprefix("sub-")
        found, wrong = _visits(name, folder, storage, settings.suffix, settings.min_scans)
        problems += wrong
        if found:
            visits[name], tables[name] = found, folder.table
    people = _TableContent()
    if participants:
        people = _read(storage, participants, "", ("participant_id", "session_id"), visits)
        problems += people.problems
    column = _match_visits(storage, visits, tables, people, settings.time_column, problems)
    subject_rows = _match_subjects(storage, visits, people, problems)
    parser = TimeParser.of(
        column, (visit.time for subject_visits in visits.values() for visit in subject_visits), settings
    )
    subjects = []
    for name, subject_visits in visits.items():
        scans, wrong = order_visits(
            name, subject_visits, parser, storage, settings.min_scans, f"visit with a {settings.suffix}"
        )
        problems += wrong
        if scans:
            row = subject_rows.get(name, {})
            lower = {column.lower(): value for column, value in row.items()}
            group = lower.get("group") or lower.get("diagnosis") or ""
            subjects.append(Subject(name, scans, group, covariates=covariates_of(row)))
    return Catalog(storage.location, tuple(subjects), tuple(problems), parser.unit)


def _folders(
    storage: Storage, settings: DataSettings, problems: list[Problem]
) -> tuple[dict[str, _Folder], Entry | None]:
    """All folders sub-*, and the participants.tsv if there is one."""
    folders: dict[str, _Folder] = {}
    participants = None
    for entry in storage.entries():
        name, _, rest = entry.path.partition("/")
        if entry.path == PARTICIPANTS:
            participants = entry
        if not rest or not name.startswith("sub-"):
            continue
        folder = folders.setdefault(name, _Folder())
        if rest == f"{name}_sessions.tsv":
            folder.table = entry
        image = _IMAGE.fullmatch(entry.path)
        if image is None:
            continue
        stem, session_folder = image["stem"], image["session"]
        suffix = stem.rpartition("_")[2]
        folder.suffixes.add(suffix)
        if suffix != settings.suffix or (settings.match and not fnmatchcase(entry.path, settings.match)):
            continue
        if not f"{stem}_".startswith(f"{name}_{session_folder}_" if session_folder else f"{name}_"):
            message = "is called after another subject or session than its folder; move or rename it"
            problems.append(Problem(name.removeprefix("sub-"), storage.where(entry.path), message))
            continue
        entity = _SESSION.search(stem)
        session = session_folder.removeprefix("ses-") if session_folder else entity[1] if entity else ""
        folder.scans.setdefault(session, []).append(entry)
    return folders, participants


def _visits(
    subject: str, folder: _Folder, storage: Storage, suffix: str, min_scans: int
) -> tuple[list[Visit], list[Problem]]:
    """The visits of a subject with one file each; none where fewer than `min_scans` are left."""
    folder_path = storage.where(f"sub-{subject}")
    if not SAFE_NAME.fullmatch(subject):
        message = "not a usable name; rename it with letters, digits, '_', '-' and '.' only"
        return [], [Problem(subject, folder_path, message)]
    if not folder.scans:
        others = ", ".join(sorted(folder.suffixes)) or "no images in anat/"
        message = f"has no scan _{suffix}.nii.gz, only {others}; add one or choose another data.suffix or data.match"
        return [], [Problem(subject, folder_path, message)]
    visits, problems = [], []
    for session, entries in folder.scans.items():
        file = storage.where(entries[0].path)
        if len(entries) > 1:
            two = " and ".join(entry.path for entry in entries[:2])
            message = f"{len(entries)} files for one visit, {two}; choose one with data.match, such as '*_run-1_*'"
            problems.append(Problem(subject, file, message))
        elif session and not SAFE_NAME.fullmatch(session):
            message = f"session {session!r} is not a usable name; rename it with letters, digits, '_', '-' and '.' only"
            problems.append(Problem(subject, file, message))
        elif not session and len(folder.scans) > 1:
            problems.append(Problem(subject, file, "belongs to no session, while others do; move it into one"))
        else:
            visits.append(Visit(entries[0], session, {}))
    if 0 < len(visits) < min_scans:
        problems.append(too_few_visits(subject, folder_path, f"visit with a {suffix}", len(visits), min_scans))
    return visits if len(visits) >= min_scans else [], problems


def _read(
    storage: Storage, entry: Entry, subject: str, labels: Sequence[str], wanted: Container[str] | None
) -> _TableContent:
    """The rows of a participants.tsv or sessions.tsv, of the `wanted` labels only; it never raises."""
    problems: list[Problem] = []
    rows: Rows = {}
    try:
        table = read_table(storage, entry)
        rows = _rows(table, labels, subject, wanted, problems)
    except DataError as error:
        file = storage.where(entry.path)
        return _TableContent((), rows, (*problems, Problem(subject, file, str(error).removeprefix(f"{file}: "))))
    return _TableContent(table.columns, rows, tuple(problems))


def _rows(
    table: StudyTable, labels: Sequence[str], subject: str, wanted: Container[str] | None, problems: list[Problem]
) -> Rows:
    keys = [key for label in labels if (key := table.named(label))]
    if table.named(labels[0]) is None:
        raise DataError(f"{table.file}: has no column {labels[0]}, only {', '.join(table.columns)}; add it")
    rows: Rows = {}
    for number, row in table.rows(problems, subject):
        label = tuple(row.pop(key, "").removeprefix("sub-").removeprefix("ses-") for key in keys)
        if not all(label):
            problems.append(Problem(subject, table.file, f"row {number} has no {' or no '.join(keys)}; fill it in"))
        elif label in rows:
            message = (
                f"row {number} is another one of {', '.join(map(repr, label))}; the first is used: remove one of them"
            )
            problems.append(Problem(subject, table.file, message))
        elif wanted is None or label[0] in wanted:
            rows[label] = row
    return rows


def _match_visits(
    storage: Storage,
    visits: Mapping[str, Sequence[Visit]],
    tables: Mapping[str, Entry | None],
    people: _TableContent,
    wanted: str,
    problems: list[Problem],
) -> str:
    """Give each visit its rows and its time, and return the column of the time."""

    def read(subject: str) -> _TableContent:
        table = tables[subject]
        return _read(storage, table, subject, ("session_id",), None) if table else _TableContent()

    filled: Counter[str] = Counter(dict.fromkeys(people.columns if _is_by_visit(people) else (), 0))
    for (subject, subject_visits), sessions in zip(visits.items(), map_in_threads(read, list(visits)), strict=True):
        problems += sessions.problems
        filled.update(dict.fromkeys(sessions.columns, 0))
        for visit in subject_visits:
            visit.row = people.rows.get((subject, visit.session), {}) | sessions.rows.get((visit.session,), {})
            filled.update(visit.row.keys())
    if wanted == ORDER or not visits:
        return ORDER
    column = time_column(wanted, filled)
    if column is None:
        missing = (
            "no column says when a visit was" if wanted == "auto" else f"no column {wanted} in the tables of visits"
        )
        found = f"the sessions.tsv files have {', '.join(sorted(filled)) or 'none'}"
        if not _is_by_visit(people):
            found += f", {PARTICIPANTS} has {', '.join(people.columns) or 'none'} but no row a session"
        mend = f"set data.time_column to one of them, or data.time_column={ORDER} to number the visits"
        raise DataError(f"{storage.location}: {missing} ({found}); {mend}", [str(problem) for problem in problems])
    for subject_visits in visits.values():
        for visit in subject_visits:
            visit.time = visit.row.pop(column, None)
    return column


def _match_subjects(
    storage: Storage, visits: Mapping[str, Sequence[Visit]], people: _TableContent, problems: list[Problem]
) -> Mapping[str, Row]:
    """The row of each subject in participants.tsv. Where it has a row a session, the values that all sessions share."""
    if _is_by_visit(people):
        shared = shared_columns([visit.row for visit in subject_visits] for subject_visits in visits.values()) & set(
            people.columns
        )
        subject_rows: dict[str, Row] = {}
        for subject, subject_visits in visits.items():
            row = subject_rows.setdefault(subject, {})
            for visit in subject_visits:
                row.update((name, visit.row.pop(name)) for name in shared & visit.row.keys())
    else:
        subject_rows = {label[0]: row for label, row in people.rows.items()}
    missing = [subject for subject in visits if people.columns and subject not in subject_rows]
    if missing:
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        message = f"has no rows for {len(missing)} subjects ({some}), who have no covariates; add them"
        problems.append(Problem("", storage.where(PARTICIPANTS), message, fatal=False))
    return subject_rows


def _is_by_visit(people: _TableContent) -> bool:
    """Whether participants.tsv has a row for each session."""
    return any(column.lower() == "session_id" for column in people.columns)
