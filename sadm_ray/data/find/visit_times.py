"""When each visit was: the time column of a study, its unit, and a subject's visits in their order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sadm_ray.config import DataSettings
from sadm_ray.data.find.catalog import Problem, Scan
from sadm_ray.data.find.study_tables import Row, covariates_of, natural, number_of
from sadm_ray.storage import Entry, Storage

ORDER = "order"

USUAL_TIMES = (
    *("age", "age_years", "age_months", "age_weeks", "age_days", "years", "months", "weeks", "days"),
    *("scan_age", "time", "acq_time", "acquisition_date", "scan_date", "date"),
)
"""Where `data.time_column=auto` looks, first come first served."""


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
    subject: str, visits: Sequence[Visit], clock: Clock, storage: Storage, least: int, kind: str = "visit"
) -> tuple[tuple[Scan, ...], list[Problem]]:
    """A subject's scans in the order of time, none if fewer than `least` can be used, and what is wrong.

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
    if 0 < len(at) < least:
        problems.append(too_few(subject, storage.where(next(iter(at.values())).entry.path), kind, len(at), least))
    if len(at) < least:
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


def too_few(subject: str, file: str, kind: str, count: int, least: int) -> Problem:
    """What to say of a subject with fewer than `least` visits."""
    some = f"only one {kind} is" if count == 1 else f"only {count} of the kind '{kind}' are"
    needed = "two are" if least == 2 else f"{least} (data.min_scans) are"
    return Problem(subject, file, f"{some} left of this subject; at least {needed} needed: add another")
