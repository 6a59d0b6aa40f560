"""Which rows of a BIDS study's tables belong to a visit or a subject, and which column says when a visit was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sadm_ray.data.find.bids_tables import (
    PARTICIPANTS,
    RowMatch,
    TableContent,
    TableFiles,
    add_scans_tables,
    declared_units,
    read_content,
    zeros_remark,
)
from sadm_ray.data.find.catalog import Problem
from sadm_ray.data.find.study_tables import Row, map_in_threads, shared_columns
from sadm_ray.data.find.time_column import ORDER, Visits, dates_remark, exact_dates, is_coarse, time_column
from sadm_ray.data.find.time_units import some
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage


def match_visits(
    storage: Storage,
    visits: Visits,
    study: TableFiles,
    tables: Mapping[str, TableFiles],
    people: TableContent,
    wanted: str,
    problems: list[Problem],
) -> tuple[str, Mapping[str, str]]:
    """Give each visit its rows and its time; return the column of the time, and its `Units` for each subject.

    With `auto`, ages that cannot tell the visits of a subject apart go behind dates that can.

    Raises:
        DataError: no column has the times.
    """
    filled = _add_rows(storage, visits, tables, people, problems)
    if wanted == ORDER or not visits:
        return ORDER, {}
    declared = declared_units(storage, list(visits), study, tables, problems)
    column = time_column(wanted, filled)
    units = _units(column, declared)
    coarse = wanted == "auto" and column is not None and is_coarse(visits, column, units.values())
    if column is None or (coarse and not exact_dates(visits, column)):
        filled += add_scans_tables(storage, visits, tables, wanted, problems)
    if column is None:
        column = time_column(wanted, filled)
        if column is None:
            raise _no_column(storage, filled, people, wanted, problems)
    elif coarse and (dates := exact_dates(visits, column)):
        problems.append(dates_remark(column, dates, storage.location))
        column = dates
    for subject_visits in visits.values():
        for visit in subject_visits:
            visit.time = visit.row.pop(column, None)
    return column, _units(column, declared)


def _units(column: str | None, declared: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    return {subject: units.get((column or "").lower(), "") for subject, units in declared.items()}


def _add_rows(
    storage: Storage,
    visits: Visits,
    tables: Mapping[str, TableFiles],
    people: TableContent,
    problems: list[Problem],
) -> Counter[str]:
    """Give each visit its rows, and count in how many each column is filled."""

    def read(subject: str) -> TableContent:
        table = tables[subject].files.get("sessions.tsv")
        return read_content(storage, table, subject, ("session_id",), None) if table else TableContent()

    labels = [(subject, visit.session) for subject, each in visits.items() for visit in each]
    by_visit = RowMatch(people.rows if people.is_by_visit else {}, labels)
    matched = {PARTICIPANTS: by_visit.without_zeros}
    filled: Counter[str] = Counter(dict.fromkeys(people.values if people.is_by_visit else (), 0))
    for (subject, subject_visits), sessions in zip(visits.items(), map_in_threads(read, list(visits)), strict=True):
        problems += sessions.problems
        filled.update(dict.fromkeys(sessions.values, 0))
        by_session = RowMatch(sessions.rows, [(visit.session,) for visit in subject_visits])
        matched[f"sub-{subject}_sessions.tsv"] = by_session.without_zeros
        for visit in subject_visits:
            visit.row = (by_visit.find((subject, visit.session)) or {}) | (by_session.find((visit.session,)) or {})
            filled.update(visit.row.keys())
    problems += zeros_remark(matched, storage.location)
    return filled


def _no_column(
    storage: Storage, filled: Counter[str], people: TableContent, wanted: str, problems: list[Problem]
) -> DataError:
    missing = "no column says when a visit was" if wanted == "auto" else f"no column {wanted} in the tables of visits"
    found = f"the tables of sessions and scans have {', '.join(sorted(filled)) or 'none'}"
    if people.columns and not people.is_by_visit:
        found += f", {PARTICIPANTS} has {', '.join(people.values) or 'none'} but no row a session"
    mend = f"set data.time_column={ORDER} to number the visits"
    mend = f"set data.time_column to one of {', '.join(sorted(filled))}, or {mend}" if filled else f"add one, or {mend}"
    if problems and not filled:
        mend = f"mend the tables that are listed, or {mend.removeprefix('add one, or ')}"
    return DataError(f"{storage.location}: {missing} ({found}); {mend}", [str(problem) for problem in problems])


def match_subjects(
    storage: Storage, visits: Visits, people: TableContent, problems: list[Problem]
) -> Mapping[str, Row]:
    """The row of each subject in participants.tsv. Where it has a row a session, the values that all sessions share."""
    if people.is_by_visit:
        shared = shared_columns([visit.row for visit in each] for each in visits.values()) & set(people.columns)
        subject_rows: dict[str, Row] = {}
        for subject, subject_visits in visits.items():
            row = subject_rows.setdefault(subject, {})
            for visit in subject_visits:
                row.update((name, visit.row.pop(name)) for name in shared & visit.row.keys())
    else:
        match = RowMatch(people.rows, [(subject,) for subject in visits])
        found = {subject: match.find((subject,)) for subject in visits}
        subject_rows = {subject: row for subject, row in found.items() if row is not None}
        problems += zeros_remark({PARTICIPANTS: match.without_zeros}, storage.location)
    missing = [subject for subject in visits if people.columns and subject not in subject_rows]
    if missing:
        message = f"has no rows for {len(missing)} subjects ({some(missing)}), who have no covariates; add them"
        problems.append(Problem("", storage.where(PARTICIPANTS), message, fatal=False))
    return subject_rows
