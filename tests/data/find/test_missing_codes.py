from __future__ import annotations

import pytest

from sadm_ray.data.find.missing_codes import impossible_times, is_called_age


@pytest.mark.parametrize(
    ("times", "column", "unit", "expected"),
    [
        ([72.1, -4, 74.2], "age", "years", {-4}),
        ([72.1, 73, 999], "age", "years", {999}),
        ([72.1, 73, 99], "age", "years", {99}),
        ([72.1, 73, 131], "age", "years", {131}),
        ([98.5, 99, 99.5], "age", "years", set()),
        ([-1, -9, -99], "age", "years", {-1, -9, -99}),
        ([72.1, 0, 74.2], "age", "years", {0}),
        ([0, 72], "age", "years", {0}),
        ([0, 0.5, 1], "age", "years", set()),
        ([0, 5, 12], "age", "years", set()),
        ([0, 864, 880], "age_months", "months", {0}),
        ([0, 9, 99], "age_weeks", "weeks", set()),
        ([3, 9, 9999], "age_months", "months", {9999}),
        ([26000, 26365], "age", "days", set()),
        ([26000, 99999], "age", "days", {99999}),
        ([-6, 0, 12], "months", "months", set()),
        ([-1, 0, 30], "days", "days", set()),
        ([0, 12, 24, 999], "months", "months", {999}),
        ([0, 12, 24, -99], "months", "months", {-99}),
        ([0, 52, 99], "weeks", "weeks", set()),
        ([0, 999], "time", "time", set()),  # nobody says how long the study goes on
        ([30, 36, 999], "scan_age", "scan_age", {999}),
        ([1, 2, 7, 8, 9], "weeks", "weeks", set()),
        ([0.5, 7.77], "time", "time", set()),
    ],
)
def test_codes_of_one_subject(times: list[float], column: str, unit: str, expected: set[float]) -> None:
    assert set(impossible_times({"a": times}, column, unit)["a"]) == expected


def test_the_other_subjects_say_how_far_is_far() -> None:
    assert set(impossible_times({"a": [72.1, 99], "b": [60, 65]}, "age", "years")["a"]) == {99}
    assert not impossible_times({"a": [72.1, 99], "b": [20, 45]}, "age", "years")["a"]
    assert set(impossible_times({"a": [0, 999], "b": [0, 24]}, "months", "months")["a"]) == {999}


def test_columns_named_after_an_age() -> None:
    assert all(map(is_called_age, ("age", "Age_Months", "scan_age", "PatientAge")))
    assert not any(map(is_called_age, ("stage", "image", "weeks", "time")))
