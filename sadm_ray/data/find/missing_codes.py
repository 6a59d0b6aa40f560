"""Times that cannot be meant: impossible ages, and the codes that tables hold where a value is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sadm_ray.data.find.time_units import YEAR

OLDEST, ADULT, ISOLATED = 130, 18, 10
"""Years: what no age exceeds; from when on somebody is an adult; how far a code lies from all others, where no subject
says how long the study follows anybody."""

_CODE = re.compile(r"-[14]|-?(9{2,6}|8{3,6}|7{3,6})|-[789]|-(77|88)")
"""-1 and -4 (ADNI), -9, 99, 999 …, and the 777 and 888 of questionnaires. As an age, 0 may be one, too."""


def is_called_age(column: str) -> bool:
    """Whether a column is named after an age."""
    return "age" in re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower())


def impossible_times(times: Mapping[str, Sequence[float]], column: str, unit: str) -> dict[str, dict[float, str]]:
    """Why times of each subject cannot be meant.

    Args:
        times: of each subject, in `unit`.
        unit: one of `YEAR`, or any other, whose ages have no bounds.
    """
    year, is_age = YEAR.get(unit, 0.0), is_called_age(column)
    found: dict[str, dict[float, str]] = {subject: {} for subject in times}
    usual: dict[str, list[float]] = {}
    for subject, values in times.items():
        for value in values:
            if is_age and value < 0:
                found[subject][value] = "while no age is below 0"
            elif is_age and year and value > OLDEST * year:
                found[subject][value] = f"more than {OLDEST} years if its unit is {unit} (data.time_unit)"
        usual[subject] = [
            value
            for value in values
            if not _is_code(value) and value not in found[subject] and not (is_age and not value)
        ]
    span = max((max(values) - min(values) for values in usual.values() if values), default=0.0)
    isolated = 1.5 * span or (ISOLATED * year if is_age else 0.0)
    for subject, values in times.items():
        suspects = {value for value in values if _is_code(value) or (is_age and not value)} - found[subject].keys()
        for value in suspects:
            gap = min((abs(value - other) for other in usual[subject] if other != value), default=0.0)
            if _is_code(value) and isolated and gap > isolated:
                found[subject][value] = "far from its other visits, as a code for a missing value is"
            elif not value and year and gap >= ADULT * year:
                found[subject][value] = "a newborn's, while its other visits are an adult's"
    return found


def _is_code(value: float) -> bool:
    return float(value).is_integer() and abs(value) < 1e6 and _CODE.fullmatch(str(int(value))) is not None
