"""Visit times: the time column of a study, its unit, and a subject's visits in the order of time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np

from sadm_ray.config import LARGEST_TIME, DataSettings
from sadm_ray.data.find.catalog import Problem, Scan
from sadm_ray.data.find.study_tables import Row, covariates_of, natural_sort_key, parse_number
from sadm_ray.storage import Entry, Storage

ORDER = "order"

USUAL_TIME_COLUMNS = (
    *("age", "age_years", "age_months", "age_weeks", "age_days", "years", "months", "weeks", "days"),
    *("scan_age", "time", "acq_time", "acquisition_date", "scan_date", "date"),
)
"""The columns that `data.time_column=auto` looks for, in this order."""


@dataclass(slots=True)
class Visit:
    """A scan whose time is not parsed yet: `time` is the text in the time column, `row` holds the other columns."""

    entry: Entry
    session: str
    row: Row
    time: str | None = None


def time_column(wanted: str, counts: Mapping[str, int], usual: Sequence[str] = USUAL_TIME_COLUMNS) -> str | None:
    """The column of the time, from the number of rows in which each column has a value; none: nothing fits `wanted`.

    A column that is filled in less than half as often as another does not count, so that a stray `age` of one subject
    does not go before the `age_weeks` of all others.
    """
    if wanted != "auto":
        return wanted if wanted in counts else None
    candidates = {name: count for name, count in counts.items() if name.lower() in usual and count}
    filled = [name for name, count in candidates.items() if 2 * count >= max(candidates.values())]
    return min(filled, key=lambda name: usual.index(name.lower()), default=None)


@dataclass(frozen=True)
class TimeParser:
    """Parses the visit times of a study: numbers or dates in `column`, or the order of the visits' names."""

    column: str
    is_date: bool
    unit: str

    @classmethod
    def of(cls, column: str, texts: Iterable[str | None], settings: DataSettings) -> TimeParser:
        """Dates or numbers, as most `texts` are; the unit is `data.time_unit`, else that of the column's name."""
        times = [time for text in texts if text and (time := _parse_time(text, column))]
        is_date = 2 * sum(dated for _, dated in times) > len(times)
        name = column.lower()
        last = name.rpartition("_")[2]
        units = {"age": "years", ORDER: "visits"}
        unit = "days" if is_date else last if last in ("years", "months", "weeks", "days") else units.get(name, column)
        return cls(column, is_date, settings.time_unit or unit)

    def time(self, text: str | None) -> float:
        """A number as it is, a date in days.

        Raises:
            ValueError: what is wrong with it and how to mend it.
        """
        if text is None:
            raise ValueError(f"its visit has no {self.column} in the tables; fill it in, or set data.time_column")
        parsed = _parse_time(text, self.column)
        if parsed is None or parsed[1] != self.is_date:
            kind = "an ISO date (2024-03-31)" if self.is_date else "a number"
            raise ValueError(f"{self.column} of its visit is {text[:50]!r} where {kind} is expected; correct it")
        if abs(parsed[0]) > LARGEST_TIME:
            raise ValueError(f"{self.column} of its visit is {text[:50]!r}, more than any time can be; correct it")
        return parsed[0]


def _parse_time(text: str, column: str) -> tuple[float, bool] | None:
    """A number, or a date in days since 1970, and whether it is a date. In a column called so, 20240331 is a date."""
    number = parse_number(text)
    if number is not None and not ("date" in column.lower() and re.fullmatch(r"[0-9]{8}", text)):
        return number, False
    try:
        date = datetime.fromisoformat(text)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return (date - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / 86400, True
    except (ValueError, OverflowError):
        return None


def order_visits(
    subject: str, visits: Sequence[Visit], parser: TimeParser, storage: Storage, min_scans: int, kind: str = "visit"
) -> tuple[tuple[Scan, ...], list[Problem]]:
    """A subject's scans in the order of time, none if fewer than `min_scans` can be used, and what is wrong.

    A visit without a name is named after its position, from 1. `kind` is the word for a visit in a problem.
    """
    problems = []
    by_time: dict[float, Visit] = {}
    for position, visit in enumerate(sorted(visits, key=lambda visit: natural_sort_key(visit.session))):
        file = storage.where(visit.entry.path)
        try:
            time = float(position) if parser.column == ORDER else parser.time(visit.time)
        except ValueError as error:
            problems.append(Problem(subject, file, str(error)))
            continue
        if time in by_time:
            other = storage.where(by_time[time].entry.path)
            problems.append(Problem(subject, file, f"has the same {parser.column} as {other}; correct one of them"))
        else:
            by_time[time] = visit
    start = min(by_time, default=0.0) if parser.is_date else 0.0
    files = {time: storage.where(visit.entry.path) for time, visit in by_time.items()}
    for earlier, later in pairwise(sorted(by_time)):
        if np.float32(earlier - start) == np.float32(later - start):  # as they are stored
            file, other = files[later], files[earlier]
            message = f"its {parser.column} cannot be told from that of {other} in 7 digits; count from the first visit"
            problems.append(Problem(subject, file, message))
            del by_time[later]
    if 0 < len(by_time) < min_scans:
        problems.append(
            too_few_visits(
                subject, storage.where(next(iter(by_time.values())).entry.path), kind, len(by_time), min_scans
            )
        )
    if len(by_time) < min_scans:
        return (), problems
    times = sorted(by_time)
    if times != list(by_time) and all(visit.session for visit in visits):
        order = ", ".join(by_time[time].session for time in times)
        message = f"by {parser.column} its visits are in the order {order}; that is used, see whether it is meant"
        problems.append(Problem(subject, storage.where(by_time[times[0]].entry.path), message, fatal=False))
    scans = []
    for position, time in enumerate(times, start=1):
        visit, entry = by_time[time], by_time[time].entry
        session, covariates = visit.session or str(position), covariates_of(visit.row)
        scans.append(Scan(entry.path, session, time - start, entry.size, entry.modified, covariates))
    return tuple(scans), problems


def too_few_visits(subject: str, file: str, kind: str, count: int, min_scans: int) -> Problem:
    """The problem of a subject with fewer than `min_scans` visits."""
    some = f"only one {kind} is" if count == 1 else f"only {count} of the kind '{kind}' are"
    needed = "two are" if min_scans == 2 else f"{min_scans} (data.min_scans) are"
    return Problem(subject, file, f"{some} left of this subject; at least {needed} needed: add another")
