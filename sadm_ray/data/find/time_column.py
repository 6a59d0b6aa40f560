"""The visits of a study as its tables describe them, and which column says when they were."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from sadm_ray.data.find.catalog import Problem
from sadm_ray.data.find.study_tables import Row
from sadm_ray.data.find.time_formats import is_called_date, read_time
from sadm_ray.data.find.time_units import unit_of, unit_of_column
from sadm_ray.storage import Entry

ORDER = "order"

USUAL_TIME_COLUMNS = (
    *("age", "age_years", "age_months", "age_weeks", "age_days", "years", "months", "weeks", "days"),
    *("scan_age", "time", "acq_time", "acquisition_date", "scan_date", "date"),
)
"""The columns that `data.time_column=auto` looks for, in this order."""

DEFAULT_UNITS = {"age": "years", ORDER: "visits"}
"""The unit of a column that neither its name nor a sidecar gives."""


@dataclass(slots=True)
class Visit:
    """A scan; `time` is the text in the time column, `row` holds the other columns. `contrasts` are the files of a
    visit by their contrast, in the order of the settings, where these have several; `entry` is the first of them.

    `read_times` sets `when` (of dates in days since 1970, else in the unit of the study), or else `fault`, why there is
    none. `is_told`: a problem of the whole study says it.
    """

    entry: Entry
    session: str
    row: Row
    time: str | None = None
    when: float | None = None
    fault: str = ""
    is_told: bool = False
    contrasts: Mapping[str, Entry] = field(default_factory=dict)


Visits = Mapping[str, Sequence[Visit]]
"""The visits of each subject."""


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


def is_coarse(visits: Visits, column: str, declared: Collection[str] = ()) -> bool:
    """Whether the numbers in a column tie within a subject, or are whole years.

    Args:
        declared: the units that sidecars give.
    """
    values = list(_numbers(visits, column))
    if any(len(set(each)) < len(each) for each in values):
        return True
    unit = unit_of_column(column) or DEFAULT_UNITS.get(column.lower(), "")
    units = {unit_of(text) for text in declared if text} or {unit}
    return units == {"years"} and any(values) and all(value.is_integer() for each in values for value in each)


def _numbers(visits: Visits, column: str) -> Iterator[list[float]]:
    for subject_visits in visits.values():
        texts = (visit.row.get(column) for visit in subject_visits)
        times = [time for text in texts if text and (time := read_time(text, column))]
        yield [time.value for time in times if time.kind in ("number", "age")]


def exact_dates(visits: Visits, column: str) -> str | None:
    """Another usual column with the day of every visit: different ones within a subject, and not against `column`."""
    rows = [visit.row for subject_visits in visits.values() for visit in subject_visits]
    names = {name for row in rows for name in row if name.lower() in USUAL_TIME_COLUMNS and is_called_date(name)}
    for name in sorted(names - {column}, key=lambda name: USUAL_TIME_COLUMNS.index(name.lower())):
        if all(name in row for row in rows) and all(_are_exact(each, name, column) for each in visits.values()):
            return name
    return None


def dates_remark(column: str, dates: str, where: str) -> Problem:
    """The warning that dates are used in the place of ages."""
    message = (
        f"{column} is in whole years, or equal at visits of one subject, so that the dates in {dates} are used; set "
        f"data.time_column={column} if they are not meant"
    )
    return Problem("", where, message, fatal=False)


def _are_exact(subject_visits: Sequence[Visit], name: str, column: str) -> bool:
    days, known = set(), []
    for visit in subject_visits:
        date, number = read_time(visit.row[name], name), read_time(visit.row.get(column, ""), column)
        if date is None or date.kind != "date":
            return False
        days.add(date.value)
        if number is not None:
            known.append((date.value, number.value))
    numbers = [number for _, number in sorted(known)]
    return len(days) == len(subject_visits) and all(earlier <= later for earlier, later in pairwise(numbers))


def other_column(visits: Sequence[Visit]) -> str | None:
    """A usual column that tells these visits apart, for the mend of visits at one time."""
    for name in USUAL_TIME_COLUMNS:
        texts = [{key.lower(): text for key, text in visit.row.items()}.get(name) for visit in visits]
        if all(texts) and len(set(texts)) == len(texts):
            return next(key for key in visits[0].row if key.lower() == name)
    return None
