"""The tables of a BIDS study and the sidecars that say the units of their columns; matching their rows to the visits.

`participants.tsv` has a row for a subject, or for each session; `sub-X_sessions.tsv` for a session; `scans.tsv`, in the
folder of the subject or the session, for a file. A sidecar at the top holds for all, one in a subject's folder for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from sadm_ray.data.find.catalog import Problem
from sadm_ray.data.find.study_tables import EMPTY_FILE, Row, StudyTable, first_line, map_in_threads, read_table
from sadm_ray.data.find.time_column import USUAL_TIME_COLUMNS, Visits
from sadm_ray.data.find.time_units import units_in_sidecar
from sadm_ray.errors import DataError
from sadm_ray.storage import Entry, Storage

Rows = dict[tuple[str, ...], Row]
"""Rows by their labels, without `sub-` and `ses-`."""

PARTICIPANTS = "participants.tsv"
TOP_FILES = (PARTICIPANTS, "participants.json", "sessions.json", "scans.json")
LABELS = ("participant_id", "session_id")
_SIDECAR_LIMIT = 2**20
"""Bytes; one has some hundred."""


@dataclass(slots=True)
class TableFiles:
    """The tables and sidecars of the study, or those below one `sub-X`, by their ending: `sessions.tsv`, `scans.json`.

    A subject has a `scans.tsv` for each session, all others occur once.
    """

    files: dict[str, Entry] = field(default_factory=dict)
    scans: list[Entry] = field(default_factory=list)


@dataclass(frozen=True)
class TableContent:
    """The content of a table: its columns, its rows, and what is wrong with it."""

    columns: tuple[str, ...] = ()
    rows: Rows = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def is_by_visit(self) -> bool:
        """Whether a participants.tsv has a row for each session."""
        return any(column.lower() == LABELS[1] for column in self.columns)

    @property
    def values(self) -> list[str]:
        """The columns that are no labels."""
        return [column for column in self.columns if column and column.lower() not in LABELS]


def read_content(
    storage: Storage, entry: Entry, subject: str, labels: Sequence[str], wanted: Container[str] | None
) -> TableContent:
    """The rows of a table, of the `wanted` labels only; it never raises."""
    problems: list[Problem] = []
    rows: Rows = {}
    try:
        table = read_table(storage, entry)
        rows = _rows(table, labels, subject, wanted, problems)
    except DataError as error:
        file = storage.where(entry.path)
        return TableContent((), rows, (*problems, Problem(subject, file, str(error).removeprefix(f"{file}: "))))
    return TableContent(table.columns, rows, tuple(problems))


def read_participants(storage: Storage, study: TableFiles, subjects: Collection[str]) -> TableContent:
    """The rows of the participants.tsv, if there is one."""
    entry = study.files.get(PARTICIPANTS)
    wanted = {*subjects, *map(without_zeros, subjects)}
    return read_content(storage, entry, "", LABELS, wanted) if entry else TableContent()


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
        elif wanted is None or label[0] in wanted or without_zeros(label[0]) in wanted:
            rows[label] = row
    return rows


def without_zeros(label: str) -> str:
    """The label without zeros before its numbers, which spreadsheets drop: M06 and M6 are one."""
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", label)


class RowMatch:
    """The rows of a table by label, or else by the label without zeros where that fits one row and one label."""

    def __init__(self, rows: Rows, labels: Iterable[tuple[str, ...]]) -> None:
        """`labels` are all that will be looked up."""
        self._rows = rows
        known = set(labels)
        bare_labels = Counter(_bare(label) for label in known)
        bare_rows = Counter(_bare(label) for label in rows)
        self._by_bare = {
            _bare(label): label
            for label in rows
            if label not in known and bare_rows[bare := _bare(label)] == 1 == bare_labels[bare]
        }
        self.without_zeros: dict[tuple[str, ...], tuple[str, ...]] = {}

    def find(self, label: tuple[str, ...]) -> Row | None:
        """The row of a label; where the table writes the label otherwise, `without_zeros` then says how."""
        if label in self._rows:
            return self._rows[label]
        other = self._by_bare.get(_bare(label))
        if other is None:
            return None
        self.without_zeros[label] = other
        return self._rows[other]


def _bare(label: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(without_zeros, label))


def zeros_remark(found: Mapping[str, Mapping[tuple[str, ...], tuple[str, ...]]], where: str) -> list[Problem]:
    """One warning of all labels that tables write without their zeros, by table."""
    pairs = [(table, label, other) for table, each in found.items() for label, other in each.items()]
    if not pairs:
        return []
    table, label, other = pairs[0]
    message = (
        f"rows of {len({table for table, _, _ in pairs})} tables are matched without zeros, such as "
        f"{'/'.join(other)!r} of {table} to {'/'.join(label)!r}; write the labels as the folders do"
    )
    return [Problem("", where, message, fatal=False)]


def add_scans_tables(
    storage: Storage, visits: Visits, tables: Mapping[str, TableFiles], wanted: str, problems: list[Problem]
) -> Counter[str]:
    """Add the columns of time in the `scans.tsv` to the rows of the visits, and count in how many each is filled."""
    entries = [(subject, entry) for subject in visits for entry in tables[subject].scans]

    def read(item: tuple[str, Entry]) -> tuple[dict[str, Row], tuple[str, ...], list[Problem]]:
        subject, entry = item
        wrong: list[Problem] = []
        folder = entry.path.rpartition("/")[0]
        rows: dict[str, Row] = {}
        try:
            table = read_table(storage, entry)
            key = table.named("filename")
            if key is None:
                raise DataError(f"{table.file}: has no column filename, only {', '.join(table.columns)}; add it")  # noqa: TRY301
            for _, row in table.rows(wrong, subject):
                if name := row.pop(key, ""):
                    rows.setdefault(f"{folder}/{name.removeprefix('./')}", row)
        except DataError as error:
            file = storage.where(entry.path)
            return rows, (), [*wrong, Problem(subject, file, str(error).removeprefix(f"{file}: "), fatal=False)]
        return rows, tuple(name for name in table.columns if name != key), wrong

    rows_of: dict[str, Row] = {}
    filled: Counter[str] = Counter()
    for rows, columns, wrong in map_in_threads(read, entries):
        rows_of |= rows
        filled.update(dict.fromkeys(columns, 0))
        problems += wrong
    for subject_visits in visits.values():
        for visit in subject_visits:
            for name, text in rows_of.get(visit.entry.path, {}).items():
                if (name.lower() in USUAL_TIME_COLUMNS or name == wanted) and name not in visit.row:
                    visit.row[name] = text
                    filled[name] += 1
    return filled


def declared_units(
    storage: Storage,
    subjects: Sequence[str],
    study: TableFiles,
    tables: Mapping[str, TableFiles],
    problems: list[Problem],
) -> dict[str, dict[str, str]]:
    """The `Units` of each column by its name in lower case, for each subject: the nearest sidecar that names any."""

    def read(entry: Entry | None) -> dict[str, str] | Problem:
        if entry is None:
            return {}
        file = storage.where(entry.path)
        if not entry.size:
            return Problem("", file, EMPTY_FILE, fatal=False)
        if entry.size > _SIDECAR_LIMIT:
            message = f"has {entry.size:,} bytes where some lines are expected, and is not read; replace it"
            return Problem("", file, message, fatal=False)
        try:
            return units_in_sidecar(storage.read(entry.path))
        except (OSError, pa.ArrowException, ValueError, RecursionError) as error:
            return Problem("", file, f"is no sidecar ({first_line(error)}); mend it, or remove it", fatal=False)

    def known(found: dict[str, str] | Problem) -> dict[str, str]:
        if isinstance(found, Problem):
            problems.append(found)
            return {}
        return found

    order = ("participants.json", "scans.json", "sessions.json")  # the nearest to a visit last
    of_all: dict[str, str] = {}
    for name in order:
        of_all |= known(read(study.files.get(name)))
    own = map_in_threads(lambda subject: read(tables[subject].files.get("sessions.json")), subjects)
    return {subject: of_all | known(found) for subject, found in zip(subjects, own, strict=True)}
