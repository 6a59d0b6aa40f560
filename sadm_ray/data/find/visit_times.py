"""Visit times: what the texts of the time column mean, and a subject's visits in the order of time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sadm_ray.config import LARGEST_TIME, DataSettings
from sadm_ray.data.find.catalog import Problem, Scan
from sadm_ray.data.find.missing_codes import impossible_times
from sadm_ray.data.find.study_tables import covariates_of, natural_sort_key
from sadm_ray.data.find.time_column import DEFAULT_UNITS, ORDER, Visit, Visits, other_column
from sadm_ray.data.find.time_formats import Kind, TimeText, fault, kind_of_column, read_column
from sadm_ray.data.find.time_units import factor, some, study_unit, unit_of, unit_of_column
from sadm_ray.storage import Storage


@dataclass(frozen=True)
class StudyTimes:
    """The column of the times of a study, whether it holds dates, and the unit; `problems` are of the whole study."""

    column: str
    is_date: bool
    unit: str
    problems: tuple[Problem, ...] = ()


def read_times(
    column: str, visits: Visits, settings: DataSettings, where: str, declared: Mapping[str, str] | None = None
) -> StudyTimes:
    """Read the text of every visit, and set its `when` or its `fault`. A column holds dates or numbers, as most are.

    Args:
        where: the study or its table, for problems.
        declared: the `Units` of the column in the sidecars, by subject; empty for a subject without.
    """
    if column == ORDER:
        return StudyTimes(column, False, settings.time_unit or DEFAULT_UNITS[ORDER])
    every = [visit for subject_visits in visits.values() for visit in subject_visits]
    read = read_column([visit.time for visit in every], column)
    kind = kind_of_column((time for time in read if time), column)
    is_date = kind in ("date", "month")
    for visit, time in zip(every, read, strict=True):
        visit.fault = _fault(visit, column, time, kind)
        visit.when = time.value if time and not visit.fault else None
    if kind == "number":
        default = unit_of_column(column) or DEFAULT_UNITS.get(column.lower(), column)
        study = study_unit(column, default, declared or {}, settings.time_unit)
        unit, remarks = study.name, list(study.remarks)
        for subject, share in study.factors.items():
            for visit in visits.get(subject, ()):
                _convert(visit, column, share, study.target)
    else:
        target = "days" if is_date else _usual_unit((time for time in read if time and time.kind == kind), settings)
        unit, remarks = settings.time_unit or target, []
        if kind == "month":
            remarks.append(f"{column} has months without a day; the first of each month is taken")
        for visit, time in zip(every, read, strict=True):
            if time and time.unit:
                _convert(visit, column, factor(time.unit, target), target)
    problems = [Problem("", where, remark, fatal=False) for remark in remarks]
    if not is_date:
        _refuse_impossible(visits, column, unit_of(unit))
    return StudyTimes(column, is_date, unit, (*problems, *_one_for_all(every, column, where)))


def _fault(visit: Visit, column: str, time: TimeText | None, kind: Kind) -> str:
    if visit.time is None:
        return f"its visit has no {column} in the tables; fill it in, or set data.time_column"
    wrong = fault(visit.time, column, time, kind)
    if not wrong and time is not None and abs(time.value) > LARGEST_TIME:
        return f"{column} of its visit is {visit.time[:50]!r}, more than any time can be; correct it"
    return wrong


def _usual_unit(times: Iterable[TimeText], settings: DataSettings) -> str:
    """The unit of most ages that name theirs, or that of the settings if any does."""
    counts = Counter(time.unit or "years" for time in times)
    wanted = unit_of(settings.time_unit or "")
    return wanted if wanted in counts else max(counts, key=lambda unit: counts[unit])


def _convert(visit: Visit, column: str, share: float | None, unit: str) -> None:
    if visit.when is None or share == 1:
        return
    if share is None:
        visit.when = None
        visit.fault = (
            f"{column} of its visit is {str(visit.time)[:50]!r} in a unit that has no exact number of {unit}, the unit "
            "of most others; convert it"
        )
    else:
        visit.when *= share


def _refuse_impossible(visits: Visits, column: str, unit: str) -> None:
    """Refuse the times that cannot be meant."""
    times = {
        subject: [visit.when for visit in subject_visits if visit.when is not None]
        for subject, subject_visits in visits.items()
    }
    found = impossible_times(times, column, unit)
    for subject, subject_visits in visits.items():
        for visit in subject_visits:
            why = found[subject].get(visit.when) if visit.when is not None else None
            if why is not None:
                visit.when = None
                visit.fault = (
                    f"{column} of its visit is {str(visit.time)[:50]!r}, {why}; clear it if it stands for a missing "
                    "value, else correct it"
                )


def _one_for_all(visits: Sequence[Visit], column: str, where: str) -> list[Problem]:
    """One problem in the place of one for each visit, where no text in the column can be used."""
    wrong = [visit for visit in visits if visit.time is not None]
    if len(wrong) < 2 or any(visit.when is not None for visit in visits):
        return []
    for visit in wrong:
        visit.is_told = True
    line = wrong[0].fault.replace(
        f"{column} of its visit is", f"{column} of none of {len(wrong)} visits can be used, the first is", 1
    )
    return [Problem("", where, line)]


@dataclass(frozen=True)
class OrderedVisits:
    """A subject's scans in the order of time, none if too few can be used; what is wrong; whether names contradict."""

    scans: tuple[Scan, ...]
    problems: tuple[Problem, ...]
    is_unexpected: bool = False


def order_visits(
    subject: str, visits: Sequence[Visit], times: StudyTimes, storage: Storage, min_scans: int, kind: str = "visit"
) -> OrderedVisits:
    """Put a subject's visits in the order of time, after `read_times`.

    A visit without a name is named after its position, from 1. `kind` is the word for a visit in a problem.
    """
    problems = []
    by_time: dict[float, Visit] = {}
    for position, visit in enumerate(sorted(visits, key=lambda visit: natural_sort_key(visit.session))):
        file = storage.where(visit.entry.path)
        time = float(position) if times.column == ORDER else visit.when
        if time is None:
            if not visit.is_told:
                problems.append(Problem(subject, file, visit.fault))
        elif time in by_time:
            other = by_time[time]
            better = other_column([other, visit])
            mend = f"set data.time_column={better}, or correct one of them" if better else "correct one of them"
            message = f"has the same {times.column} as {storage.where(other.entry.path)}; {mend}"
            problems.append(Problem(subject, file, message))
        else:
            by_time[time] = visit
    start = min(by_time, default=0.0) if times.is_date else 0.0
    files = {time: storage.where(visit.entry.path) for time, visit in by_time.items()}
    for earlier, later in pairwise(sorted(by_time)):
        if np.float32(earlier - start) == np.float32(later - start):  # as the model takes them
            file, other_file = files[later], files[earlier]
            message = (
                f"its {times.column} cannot be told from that of {other_file} in 7 digits; count from the first visit"
            )
            problems.append(Problem(subject, file, message))
            del by_time[later]
    if 0 < len(by_time) < min_scans:
        file = storage.where(next(iter(by_time.values())).entry.path)
        problems.append(too_few_visits(subject, file, kind, len(by_time), min_scans))
    if len(by_time) < min_scans:
        return OrderedVisits((), tuple(problems))
    in_order = sorted(by_time)
    scans = []
    for position, time in enumerate(in_order, start=1):
        visit = by_time[time]
        session, covariates = visit.session or str(position), covariates_of(visit.row)
        for contrast, entry in (visit.contrasts or {"": visit.entry}).items():
            scans.append(Scan(entry.path, session, time - start, entry.size, entry.modified, covariates, contrast))
    is_unexpected = in_order != list(by_time) and _are_numbered([visit.session for visit in visits])
    return OrderedVisits(tuple(scans), tuple(problems), is_unexpected)


def _are_numbered(sessions: Sequence[str]) -> bool:
    """Whether names differ in their numbers alone (M00, M06), so that they have an order: pre and post have none."""
    return "" not in sessions and len({re.sub("[0-9]+", "0", session) for session in sessions}) == 1


def order_remark(unexpected: Mapping[str, Sequence[Scan]], times: StudyTimes, storage: Storage) -> list[Problem]:
    """The warning of the subjects whose visits are in another order than their names: one for all."""
    if not unexpected:
        return []
    subject, scans = next(iter(unexpected.items()))
    order = ", ".join(scan.session for scan in scans)
    if len(unexpected) == 1:
        message = f"by {times.column} its visits are in the order {order}; that is used, see whether it is meant"
        return [Problem(subject, storage.where(scans[0].file), message, fatal=False)]
    message = (
        f"by {times.column} the visits of {len(unexpected)} subjects ({some(list(unexpected))}) are in another order "
        f"than their names, of {subject} {order}; that is used, see whether it is meant"
    )
    return [Problem("", storage.location, message, fatal=False)]


def too_few_visits(subject: str, file: str, kind: str, count: int, min_scans: int) -> Problem:
    """The problem of a subject with fewer than `min_scans` visits."""
    some_are = f"only one {kind} is" if count == 1 else f"only {count} of the kind '{kind}' are"
    needed = "two are" if min_scans == 2 else f"{min_scans} (data.min_scans) are"
    return Problem(subject, file, f"{some_are} left of this subject; at least {needed} needed: add another")
