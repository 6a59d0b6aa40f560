"""How a table may write the time of a visit: a number, a date in one of several forms, or an age with its unit.

Only forms that can be read in one way are read. `01/02/2019` is January or February, so it is none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from functools import lru_cache
from typing import Literal

from sadm_ray.data.find.study_tables import parse_number

Kind = Literal["number", "year", "month", "date", "age"]
"""What a text is: a number; a calendar year; a month without a day; a date; an age of DICOM, such as `018M`."""

EXPECTED: dict[Kind, str] = {
    "number": "a number",
    "year": "a year",
    "month": "a month (2024-03)",
    "date": "an ISO date (2024-03-31)",
    "age": "an age such as 018M",
}
AGE_UNITS = {"D": "days", "W": "weeks", "M": "months", "Y": "years"}
UNIT_WORDS = ("years", "months", "weeks", "days")

_YEARS = range(1600, 2200)
"""The years of dates that are written in digits alone; shifted dates lie before 1925 (BIDS)."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-?W[0-9]{2}(-?[0-9])?|[0-9]{8}(?=T))([T ].+)?")
_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})")
_DIGITS = re.compile(r"([0-9]{8})([0-9]{2})?([0-9]{2})?([0-9]{2})?(\.[0-9]+)?([+-][0-9]{4})?")
_DICOM_AGE = re.compile(r"([0-9]{1,3})([DWMY])")
_EITHER_WAY = re.compile(r"[0-9]{1,4}[/.-][0-9]{1,2}[/.-][0-9]{1,4}.*")


@dataclass(frozen=True, slots=True)
class TimeText:
    """A text that was read: its value (of dates and months in days since 1970), what it is, the unit it names."""

    value: float
    kind: Kind
    unit: str = ""


@lru_cache(maxsize=64)
def is_called_date(column: str) -> bool:
    """Whether a column is named after dates or the time of the acquisition: there, digits are no plain number."""
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower())
    return "date" in column.lower() or any(word in ("acq", "acquisition") for word in words)


def is_called_number(column: str) -> bool:
    """Whether a column is named after an age or a unit of time, so that digits in it are no date."""
    words = set(re.split(r"[^a-z]+", column.lower()))
    return not is_called_date(column) and bool(words & {"age", *UNIT_WORDS})


def read_time(text: str, column: str) -> TimeText | None:
    """A time as a table writes it; none if it is not understood, or could be read in more than one way."""
    number = parse_number(text)
    if number is None:
        return _read_words(text)
    digits = text
    if number.is_integer() and 0 <= number < 1e15 and not text.isdecimal():
        digits = str(int(number))  # 20190131.0 and 2.0190131e+07, as programs write a column with gaps
    time = _read_digits(digits, column)
    if time is not None:
        return time
    whole = digits.partition(".")[0]
    if not is_called_date(column):
        return None if whole != digits and _read_digits(whole, column) else TimeText(number, "number")
    if len(whole) in (6, 8, 10, 12, 14):  # a time of day, or a day before a month
        return _read_month(whole[:4], whole[4:]) if len(digits) == 6 else None
    if len(whole) == 4 and int(number) in _YEARS:
        return TimeText(number, "year")
    return TimeText(number, "number")


def read_column(texts: Sequence[str | None], column: str) -> list[TimeText | None]:
    """All texts of a column, as `read_time` reads them; six digits are months only if no day can be meant (YYMMDD)."""
    times = [read_time(text, column) if text else None for text in texts]
    six = [text for text, time in zip(texts, times, strict=True) if text and _is_six_digits(text, column)]
    are_months = all(_read_month(text[:4], text[4:]) for text in six)
    if not six or (are_months and not all(map(_is_short_date, six))):
        return times
    return [None if text and _is_six_digits(text, column) else time for text, time in zip(texts, times, strict=True)]


def _is_six_digits(text: str, column: str) -> bool:
    return len(text) == 6 and text.isdecimal() and text.isascii() and is_called_date(column)


def _is_short_date(text: str) -> bool:
    try:
        return bool(date(2000 + int(text[:2]), int(text[2:4]), int(text[4:])))
    except ValueError:
        return False


def kind_of_column(times: Iterable[TimeText], column: str) -> Kind:
    """What most texts of a column are; without any, its name decides."""
    counts = Counter(time.kind for time in times)
    return max(counts, key=lambda kind: counts[kind], default="date" if is_called_date(column) else "number")


def fault(text: str, column: str, time: TimeText | None, kind: Kind) -> str:
    """Why a text cannot be used in a column of `kind`, and the mend; empty if it can."""
    where = f"{column} of its visit is {text[:50]!r}"
    if time is not None and time.kind == kind:
        looks_dated = kind == "date" and parse_number(text) is not None and is_called_number(column)
        return f"{where}, which looks like a date where a number is expected; {_MEND_DATE}" if looks_dated else ""
    if time is None and (_EITHER_WAY.fullmatch(text) or _is_six_digits(text, column)):
        return f"{where}, which can be read in more than one way; write it as an ISO date (2024-03-31)"
    if time is None and kind == "number" and re.fullmatch(r"-?[0-9]+,[0-9]+", text):
        return f"{where}, with a comma; write it with a decimal point"
    if time is None and kind == "number" and re.fullmatch(r"[<>]=?[0-9.]+|[0-9.]+\+", text):
        return f"{where}, which is a bound and no value; write the value, or clear it"
    if time is not None and time.kind == "month" and kind == "date":
        return f"{where}, without the day that other visits have; write it as an ISO date (2024-03-31)"
    if time is not None and time.kind == "date" and parse_number(text) is not None:
        return f"{where}, which looks like a date where {EXPECTED[kind]} is expected; {_MEND_DATE}"
    return f"{where} where {EXPECTED[kind]} is expected; correct it"


_MEND_DATE = "write dates as 2024-03-31, in a column of their own such as acq_time"


def _read_words(text: str) -> TimeText | None:
    if match := _DICOM_AGE.fullmatch(text):
        return TimeText(float(match[1]), "age", AGE_UNITS[match[2]])
    if match := _MONTH.fullmatch(text):
        return _read_month(*match.groups())
    if match := _DIGITS.fullmatch(text):  # with an offset from UTC, so no number
        return _date_of(match)
    if not _ISO.fullmatch(text):
        return None
    try:
        return _days(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None


def _read_digits(digits: str, column: str) -> TimeText | None:
    """A date of DICOM (DA 20190131, DT 20190131101500.5); one that ends with the hour only where dates are expected."""
    match = _DIGITS.fullmatch(digits)
    if match is None or (match[2] and not match[3] and not is_called_date(column)):
        return None
    return _date_of(match)


def _date_of(match: re.Match[str]) -> TimeText | None:
    day, hour, minute, second, fraction, offset = match.groups()
    if int(day[:4]) not in _YEARS or (fraction and not second):
        return None
    try:
        zone = timezone(timedelta(hours=int(offset[:3]), minutes=int(offset[0] + offset[3:]))) if offset else UTC
        clock = int(hour or 0), int(minute or 0), int(second or 0)
        start = datetime(int(day[:4]), int(day[4:6]), int(day[6:]), *clock, tzinfo=zone)
    except ValueError:
        return None
    return _days(start + timedelta(seconds=float(fraction or 0)))


def _read_month(year: str, month: str) -> TimeText | None:
    if int(year) not in _YEARS or not 1 <= int(month) <= 12:
        return None
    return TimeText(_days(datetime(int(year), int(month), 1, tzinfo=UTC)).value, "month")


def _days(moment: datetime) -> TimeText:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return TimeText((moment - _EPOCH).total_seconds() / 86400, "date")
