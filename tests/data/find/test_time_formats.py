from __future__ import annotations

from datetime import date

import pytest

from sadm_ray.data.find.time_formats import (
    Kind,
    TimeText,
    fault,
    is_called_date,
    is_called_number,
    kind_of_column,
    read_column,
    read_time,
)


def days(*day: int) -> float:
    return float((date(*day) - date(1970, 1, 1)).days)


NOON = days(2019, 1, 31) + 0.5


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("2019-01-31", "age", TimeText(days(2019, 1, 31), "date")),
        ("2019-01-31T12:00:00", "acq_time", TimeText(NOON, "date")),
        ("2019-01-31 12:00:00.000000Z", "time", TimeText(NOON, "date")),
        ("2019-01-31T14:00:00+02:00", "time", TimeText(NOON, "date")),
        ("20190131T120000", "time", TimeText(NOON, "date")),
        ("2019-W05-4", "date", TimeText(days(2019, 1, 31), "date")),
        ("1845-03-31T10:00:00", "acq_time", TimeText(days(1845, 3, 31) + 10 / 24, "date")),
        ("20190131", "acq_time", TimeText(days(2019, 1, 31), "date")),
        ("20190131", "time", TimeText(days(2019, 1, 31), "date")),
        ("20190131.0", "scan_date", TimeText(days(2019, 1, 31), "date")),
        ("2.0190131e+07", "scan_date", TimeText(days(2019, 1, 31), "date")),
        ("18901014", "date", TimeText(days(1890, 10, 14), "date")),
        ("20190131120000", "time", TimeText(NOON, "date")),
        ("20190131120000.000000", "AcquisitionDateTime", TimeText(NOON, "date")),
        ("20190131140000.0+0200", "acq_time", TimeText(NOON, "date")),
        ("20190131083000-0330", "acq_time", TimeText(NOON, "date")),
        ("201901311200", "acq_time", TimeText(NOON, "date")),
        ("2019013112", "acq_time", TimeText(NOON, "date")),
        ("2018-11", "scan_date", TimeText(days(2018, 11, 1), "month")),
        ("201811", "scan_date", TimeText(days(2018, 11, 1), "month")),
        ("2018", "scan_date", TimeText(2018, "year")),
        ("2018.45", "scan_date", TimeText(2018.45, "year")),
        ("43496", "scan_date", TimeText(43496, "number")),
        ("201811", "time", TimeText(201811, "number")),
        ("1612231415", "time", TimeText(1612231415, "number")),  # seconds since 1970
        ("1700000000000", "time", TimeText(1.7e12, "number")),
        ("20191301", "days", TimeText(20191301, "number")),
        ("-20190131", "time", TimeText(-20190131, "number")),
        ("72.1", "age", TimeText(72.1, "number")),
        ("1e2", "weeks", TimeText(100, "number")),
        ("072Y", "age", TimeText(72, "age", "years")),
        ("018M", "age", TimeText(18, "age", "months")),
        ("12W", "age", TimeText(12, "age", "weeks")),
        ("030D", "PatientAge", TimeText(30, "age", "days")),
    ],
)
def test_texts_that_can_be_read_in_one_way(text: str, column: str, expected: TimeText) -> None:
    found = read_time(text, column)
    assert found is not None
    assert (found.kind, found.unit) == (expected.kind, expected.unit)
    assert found.value == pytest.approx(expected.value, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("01/31/2019", "scan_date"),
        ("31.01.2019", "scan_date"),
        ("01-02-2019", "acq_time"),
        ("2019/01/31", "acq_time"),
        ("2019-02-30", "acq_time"),
        ("20190230", "scan_date"),
        ("31012019", "scan_date"),
        ("190131", "scan_date"),
        ("201813", "scan_date"),
        ("2018-13", "scan_date"),
        ("101500", "acq_time"),  # a time of day
        ("101500.25", "acq_time"),
        ("10:15:00", "acq_time"),
        ("20190131.5", "time"),
        ("20190131101500.5.1", "time"),
        ("2019-01-31x10:15", "time"),
        ("89+", "age"),
        ("72,1", "age"),
        ("P72Y", "age"),
        ("72y", "age"),
        ("None", "age"),
        ("1_000", "age"),
        ("inf", "age"),
    ],
)
def test_texts_that_are_not_guessed(text: str, column: str) -> None:
    assert read_time(text, column) is None


@pytest.mark.parametrize(
    ("texts", "column", "kind"),
    [
        (["20190131", "20190201"], "time", "date"),
        (["20190131", "5", "6"], "time", "number"),
        (["201811", "2018-12"], "scan_date", "month"),
        ([], "time", "number"),
        ([], "acq_time", "date"),
    ],
)
def test_a_column_is_what_most_of_it_is(texts: list[str], column: str, kind: str) -> None:
    assert kind_of_column((time for time in read_column(texts, column) if time), column) == kind


@pytest.mark.parametrize(
    ("texts", "are_months"),
    [
        (["201811", "201812"], True),
        (["201011", "201013"], False),  # no month, so days of 2020
        (["190131", "190201"], False),
        (["201011", "201012"], False),  # November 2010, or a day of 2020
        (["201011", "201811"], True),
        (["189010", "189101"], True),
    ],
)
def test_six_digits_are_months_if_no_day_can_be_meant(texts: list[str], are_months: bool) -> None:
    assert [time is not None and time.kind == "month" for time in read_column(texts, "scan_date")] == [are_months] * 2
    if not are_months:
        assert "can be read in more than one way" in fault(texts[0], "scan_date", None, "date")


@pytest.mark.parametrize(
    ("text", "column", "kind", "expected"),
    [
        ("5", "time", "number", ""),
        ("20190131", "time", "date", ""),
        ("20190131", "time", "number", "looks like a date where a number is expected"),
        ("20190131101500", "age", "date", "looks like a date where a number is expected"),
        ("20190131", "age_days", "date", "looks like a date"),
        ("20190131", "acq_time", "month", "looks like a date where a month (2024-03) is expected"),
        ("2018-11", "acq_time", "date", "without the day that other visits have; write it as an ISO date"),
        ("01/31/2019", "acq_time", "date", "can be read in more than one way; write it as an ISO date (2024-03-31)"),
        ("72,1", "age", "number", "with a comma; write it with a decimal point"),
        ("89+", "age", "number", "is a bound and no value"),
        ("<1", "age", "number", "is a bound and no value"),
        ("soon", "age", "number", "where a number is expected; correct it"),
        ("5", "acq_time", "date", "where an ISO date (2024-03-31) is expected"),
        ("72", "age", "age", "where an age such as 018M is expected"),
        ("101500.25", "acq_time", "date", "where an ISO date (2024-03-31) is expected"),
        ("31012019", "scan_date", "date", "where an ISO date (2024-03-31) is expected"),
    ],
)
def test_what_is_wrong_names_column_text_and_mend(text: str, column: str, kind: Kind, expected: str) -> None:
    line = fault(text, column, read_time(text, column), kind)
    assert expected in line
    assert bool(line) == bool(expected)
    if expected:
        assert line.startswith(f"{column} of its visit is {text!r}")
        assert ";" in line


def test_columns_by_their_names() -> None:
    called = ("acq_time", "acquisition_date", "date", "scan_date", "AcquisitionDateTime", "session_date")
    assert all(map(is_called_date, called))
    assert not any(map(is_called_date, ("time", "age", "scan_age", "days", "weeks", "dose")))
    assert all(map(is_called_number, ("age", "scan_age", "age_days", "weeks")))
    assert not any(map(is_called_number, ("time", "acq_time", "stage", "dosage", "age_at_date")))
