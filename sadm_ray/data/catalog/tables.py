"""What the tables of a study tell: rows, values, and when each visit was."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from sadm_ray.config import DataSettings
from sadm_ray.data.catalog.subjects import Covariates, Problem, Scan
from sadm_ray.data.storage import Entry, Storage
from sadm_ray.errors import DataError

Row = dict[str, str]
"""The values of a row by column, as they are written; what is missing has no entry."""

MISSING = frozenset({"", "n/a", "na", "nan"})
ORDER = "order"
NOTHING = "is empty, or a link to nothing; copy it again from its source"
DELIMITERS = {".csv": ",", ".tsv": "\t"}

USUAL_TIMES = (
    *("age", "age_years", "age_months", "age_weeks", "age_days", "years", "months", "weeks", "days"),
    *("scan_age", "time", "acq_time", "acquisition_date", "scan_date", "date"),
)
"""Where `data.time_column=auto` looks, first come first served."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def all_at_once(do: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`do` of each item, in order, many at a time: an object store takes tens of milliseconds to answer."""

    def do_some(start: int) -> list[Result]:  # a task of several, as a task alone costs more than to ask a disk
        return [do(item) for item in items[start : start + 8]]

    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(items), 1024):  # a pool takes all that it is given, however much that is
            for results in pool.map(do_some, range(start, min(start + 1024, len(items)), 8)):
                yield from results


@dataclass(frozen=True)
class Table:
    """A table that is being read: its `rows` can be gone through once."""

    file: str
    columns: tuple[str, ...]
    lines: Iterator[tuple[int, Sequence[str | None]]]

    def rows(self, problems: list[Problem], subject: str = "") -> Iterator[tuple[int, Row]]:
        """Rows and their numbers: of text the line, the header being line 1; of Parquet the row, from 1.

        Rows of too many or too few fields are left out and added to `problems`.

        Raises:
            DataError: the rest cannot be read.
        """
        try:
            for number, fields in self.lines:
                if len(fields) != len(self.columns):
                    told = f"row {number} has {len(fields)} fields where the header has {len(self.columns)}; correct it"
                    problems.append(Problem(subject, self.file, told))
                    continue
                words = ((name, (field or "").strip()) for name, field in zip(self.columns, fields, strict=True))
                yield number, {name: word for name, word in words if name and word.lower() not in MISSING}
        except (OSError, csv.Error, pa.ArrowException) as error:
            raise DataError(f"{self.file}: cannot be read ({reason(error)}); export the table again") from None

    def named(self, *names: str) -> str | None:
        """The column of the first of these names that is there, in upper or lower case."""
        lower = {column.lower(): column for column in reversed(self.columns)}
        return next((lower[name] for name in names if name in lower), None)


def read_table(storage: Storage, entry: Entry) -> Table:
    """Open a .csv, .tsv or .parquet table.

    Raises:
        DataError: it cannot be read, is empty or names a column twice.
    """
    path, file = entry.path, storage.where(entry.path)
    if not entry.size:  # nor is a pipe or a device read, which might never end
        raise DataError(f"{file}: {NOTHING}")
    try:
        lines = _parquet(storage, path) if path.lower().endswith(".parquet") else _text(storage.read(path), path)
        _, names = next(lines, (0, ()))
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read ({reason(error)}); check the path or export it again") from None
    columns = tuple((name or "").strip() for name in names)
    if not any(columns):
        raise DataError(f"{file}: is empty; a line with the names of the columns is expected")
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(f"{file}: has two columns called '{twice[0]}'; rename one of them")
    return Table(file, columns, lines)


def _text(content: bytes, path: str) -> Iterator[tuple[int, Sequence[str | None]]]:
    """The header and the lines that are not blank. pyarrow's reader knows no line numbers and stops at Latin-1."""
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", errors="replace", newline="")
    lines = csv.reader(text, delimiter=DELIMITERS[path[-4:].lower()])
    for fields in lines:
        if any(field.strip() for field in fields):
            yield lines.line_num, fields


def _parquet(storage: Storage, path: str) -> Iterator[tuple[int, Sequence[str | None]]]:
    """The same of Parquet, whose numbers and dates become words. What pandas adds as its index has no name here."""
    with storage.open_random(path) as stream:
        file = pq.ParquetFile(stream)
        for field in file.schema_arrow:
            if pa.types.is_nested(field.type) or pa.types.is_duration(field.type):
                raise pa.ArrowInvalid(f"column '{field.name}' is {field.type}, neither numbers, dates nor text")
        yield 0, tuple("" if name.startswith("__index_level_") else name for name in file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches():
            for fields in zip(*(column.cast(pa.string()).to_pylist() for column in batch.columns), strict=True):
                number += 1
                yield number, fields


def reason(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def number_of(word: str) -> float | None:
    """A finite number; none where it is no such."""
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in word else None


def covariates_of(row: Mapping[str, str]) -> Covariates:
    """Numbers as floats, other values as they are."""
    return {name: word if (value := number_of(word)) is None else value for name, word in row.items()}


def shared_columns(subjects: Iterable[Sequence[Row]]) -> frozenset[str]:
    """The columns that tell the same in all rows of every subject: what is known of the subject, not of a visit."""
    names: set[str] = set()
    varying: set[str] = set()
    for rows in subjects:
        first: Row = {}
        for row in rows:
            names.update(row)
            varying.update(name for name, word in row.items() if first.setdefault(name, word) != word)
    return frozenset(names - varying)


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts ses-2 before ses-10."""
    parts = re.split(r"([0-9]+)", name)  # text and digits by turns
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


@dataclass(slots=True)
class Visit:
    """A scan before its time is understood: `time` is the word in the time column, `row` what else is told of it."""

    entry: Entry
    session: str
    row: Row
    time: str | None = None


def time_column(wanted: str, counts: Mapping[str, int], usual: Sequence[str] = USUAL_TIMES) -> str | None:
    """The column that tells the time, given in how many rows each column has a value; none: nothing fits `wanted`.

    A column that is filled in less than half as often as another does not count, so that a stray `age` of one subject
    does not go before the `age_weeks` of all others.
    """
    if wanted != "auto":
        return wanted if wanted in counts else None
    known = {name: count for name, count in counts.items() if name.lower() in usual and count}
    filled = [name for name, count in known.items() if 2 * count >= max(known.values())]
    return min(filled, key=lambda name: usual.index(name.lower()), default=None)


@dataclass(frozen=True)
class Clock:
    """How the visits of a study tell their time: by numbers or dates in `column`, or by the order of their names."""

    column: str
    dated: bool
    unit: str

    @classmethod
    def of(cls, column: str, words: Iterable[str | None], settings: DataSettings) -> Clock:
        """Dates or numbers is what most of the `words` in the column are; `data.time_unit` goes before its name."""
        moments = [moment for word in words if word and (moment := _moment(word, column))]
        dated = 2 * sum(is_date for _, is_date in moments) > len(moments)
        name = column.lower()
        last = name.rpartition("_")[2]
        units = {"age": "years", ORDER: "visits"}
        unit = "days" if dated else last if last in ("years", "months", "weeks", "days") else units.get(name, column)
        return cls(column, dated, settings.time_unit or unit)

    def time(self, word: str | None) -> float:
        """A number as it is, a date in days.

        Raises:
            ValueError: what is wrong with it and the mend.
        """
        if word is None:
            raise ValueError(f"its visit has no {self.column} in the tables; fill it in, or set data.time_column")
        moment = _moment(word, self.column)
        if moment is None or moment[1] != self.dated:
            kind = "an ISO date (2024-03-31)" if self.dated else "a number"
            raise ValueError(f"{self.column} of its visit is {word[:50]!r} where {kind} is expected; correct it")
        return moment[0]


def _moment(word: str, column: str) -> tuple[float, bool] | None:
    """A number, or a date in days since 1970, and which of them. In a column of dates, 20240331 is one."""
    number = number_of(word)
    if number is not None and not ("date" in column.lower() and re.fullmatch(r"[0-9]{8}", word)):
        return number, False
    try:
        date = datetime.fromisoformat(word)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return (date - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / 86400, True
    except (ValueError, OverflowError):
        return None


def order_visits(
    subject: str, visits: Sequence[Visit], clock: Clock, storage: Storage, kind: str = "visit"
) -> tuple[tuple[Scan, ...], list[Problem]]:
    """A subject's scans in the order of time, none if fewer than two can be used, and what is wrong.

    A visit without a name is called by its place, from 1. `kind` is what a visit is called in a problem.
    """
    problems = []
    at: dict[float, Visit] = {}
    for place, visit in enumerate(sorted(visits, key=lambda visit: natural(visit.session))):
        file = storage.where(visit.entry.path)
        try:
            time = float(place) if clock.column == ORDER else clock.time(visit.time)
        except ValueError as error:
            problems.append(Problem(subject, file, str(error)))
            continue
        if time in at:
            other = storage.where(at[time].entry.path)
            problems.append(Problem(subject, file, f"has the same {clock.column} as {other}; correct one of them"))
        else:
            at[time] = visit
    if len(at) == 1:
        problems.append(only_one(subject, storage.where(next(iter(at.values())).entry.path), kind))
    if len(at) < 2:
        return (), problems
    times = sorted(at)
    start = times[0] if clock.dated else 0.0
    if times != list(at) and all(visit.session for visit in visits):
        order = ", ".join(at[time].session for time in times)
        told = f"by {clock.column} its visits are in the order {order}; that is used, see whether it is meant"
        problems.append(Problem(subject, storage.where(at[times[0]].entry.path), told, fatal=False))
    scans = []
    for place, time in enumerate(times, start=1):
        visit, entry = at[time], at[time].entry
        session, known = visit.session or str(place), covariates_of(visit.row)
        scans.append(Scan(entry.path, session, time - start, entry.size, entry.modified, known))
    return tuple(scans), problems


def only_one(subject: str, file: str, kind: str) -> Problem:
    """What to say of a subject with a single visit."""
    return Problem(subject, file, f"only one {kind} is left of this subject; at least two are needed: add another")
