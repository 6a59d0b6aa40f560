from __future__ import annotations

import json

import pytest

from sadm_ray.data.find.time_units import factor, study_unit, unit_of, unit_of_column, units_in_sidecar


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        *[(text, "months") for text in ("month", "Months", "mo", "mos.", "age in months", "months (corrected)")],
        *[(text, "years") for text in ("year", "years", "Years", "a", "y", "yr", "yrs.")],
        *[(text, "weeks") for text in ("weeks", "wk", "postmenstrual weeks", "w")],
        *[(text, "days") for text in ("d", "day", "Days")],
        *[("h", "hours"), ("s", "seconds"), ("min", "minutes")],
        *[(text, "") for text in ("", "quarters", "weeks or days", "age", "a month or a year", "z-score")],
    ],
)
def test_spellings(text: str, unit: str) -> None:
    assert unit_of(text) == unit


def test_factors_are_exact_or_none() -> None:
    assert factor("weeks", "days") == 7
    assert factor("days", "weeks") == 1 / 7
    assert factor("months", "years") == 1 / 12
    assert factor("years", "months") == 12
    assert factor("hours", "days") == 1 / 24
    assert factor("visits", "visits") == 1
    assert factor("days", "months") is None
    assert factor("years", "weeks") is None
    assert factor("moons", "days") is None


def test_units_in_the_names_of_columns() -> None:
    columns = ("age_months", "Weeks", "age", "scan_age", "acq_time")
    assert [unit_of_column(column) for column in columns] == ["months", "weeks", "", "", ""]


def test_a_sidecar() -> None:
    sidecar = {"Age": {"Units": " months "}, "sex": {"Levels": {}}, "x": {"Units": 3}, "y": "text", "z": {"Units": ""}}
    assert units_in_sidecar(b"\xef\xbb\xbf" + json.dumps(sidecar).encode()) == {"age": "months"}
    for content in (b"", b"[]", b"{", b"\xff\xfe"):
        with pytest.raises(ValueError, match=r".+"):
            units_in_sidecar(content)


def test_one_unit_for_a_study() -> None:
    assert study_unit("age", "years", {}, None).name == "years"
    assert study_unit("age", "years", {"a": ""}, None).name == "years"
    one = study_unit("age", "years", {"a": "month", "b": "mo"}, None)
    assert (one.name, one.factors, one.remarks) == ("months", {"a": 1, "b": 1}, ())
    assert study_unit("age", "years", {"a": "month"}, "moons").name == "moons"
    foreign = study_unit("time", "time", {"a": "cycles"}, None)
    assert (foreign.name, foreign.factors) == ("cycles", {"a": 1})


def test_subjects_of_different_units() -> None:
    mixed = study_unit("age", "years", {"a": "months", "b": "months", "c": "years", "d": "days", "e": ""}, None)
    assert mixed.name == "months"
    assert mixed.factors == {"a": 1, "b": 1, "c": 12, "d": None, "e": 1}
    assert [part in " ".join(mixed.remarks) for part in ("of 1 subjects (e)", "converted to months")] == [True, True]
    wanted = study_unit("age", "years", {"a": "months", "b": "months", "c": "years"}, "years")
    assert (wanted.name, wanted.factors) == ("years", {"a": 1 / 12, "b": 1 / 12, "c": 1})


def test_a_sidecar_against_the_name_of_the_column() -> None:
    found = study_unit("age_months", "months", {"a": "years"}, None)
    assert (found.name, dict(found.factors)) == ("months", {})
    assert "in years, against the name of the column; months is used" in found.remarks[0]
    assert study_unit("age_months", "months", {"a": "mo"}, None).remarks == ()
    assert study_unit("age_months", "months", {"a": "years"}, "years").remarks == ()
