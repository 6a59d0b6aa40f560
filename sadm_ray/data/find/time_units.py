"""The unit of the times of a study: from the name of their column, or from the `Units` of a BIDS sidecar."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from sadm_ray.data.find.time_formats import UNIT_WORDS

_SPELLINGS = {
    "years": "y yr yrs year years a annum",
    "months": "mo mos mon mth mths month months",
    "weeks": "w wk wks week weeks",
    "days": "d day days",
    "hours": "h hr hrs hour hours",
    "minutes": "min mins minute minutes",
    "seconds": "s sec secs second seconds",
}
_UNITS = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_EXACT = (
    {"days": Fraction(1), "weeks": Fraction(7), "hours": Fraction(1, 24), "minutes": Fraction(1, 1440)}
    | {"seconds": Fraction(1, 86400)},
    {"months": Fraction(1), "years": Fraction(12)},
)
"""Units that convert into each other exactly; a month has no number of days."""

YEAR = {"years": 1.0, "months": 12.0, "weeks": 365.25 / 7, "days": 365.25, "hours": 365.25 * 24}
"""How long a year is in each unit, to judge whether an age is possible."""


def unit_of(text: str) -> str:
    """The unit that a text names (`mo`, `Months`, `years since birth`); empty if it names none, or two."""
    plain = text.strip().lower().rstrip(".")
    if plain in _UNITS:
        return _UNITS[plain]
    named = {_UNITS[word] for word in re.findall(r"[a-z]{3,}", plain) if word in _UNITS}
    return named.pop() if len(named) == 1 else ""


def unit_of_column(column: str) -> str:
    """The unit in the name of a column: `age_months`, `weeks`; empty without."""
    last = column.lower().rpartition("_")[2]
    return last if last in UNIT_WORDS else ""


def factor(source: str, target: str) -> float | None:
    """What a time in one unit is multiplied with to be in another; none if there is no exact factor."""
    if source == target:
        return 1.0
    for units in _EXACT:
        if source in units and target in units:
            return float(units[source] / units[target])
    return None


def units_in_sidecar(content: bytes) -> dict[str, str]:
    """The `Units` of each column, by its name in lower case, of a BIDS sidecar.

    Raises:
        ValueError: it is no JSON object.
    """
    columns = json.loads(content.decode("utf-8-sig"))
    if not isinstance(columns, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  (as json.loads, for the caller)
    units = {
        name.lower(): about.get("Units", about.get("units"))
        for name, about in columns.items()
        if isinstance(about, dict)
    }
    return {name: text.strip() for name, text in units.items() if isinstance(text, str) and text.strip()}


@dataclass(frozen=True)
class StudyUnit:
    """The one unit of a study, by its name and its standard word.

    `factors`: what the times of each subject are multiplied with; none where no factor is exact.
    """

    name: str
    target: str
    factors: Mapping[str, float | None] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def study_unit(column: str, default: str, declared: Mapping[str, str], wanted: str | None) -> StudyUnit:
    """The unit of the numbers in a column.

    Args:
        default: the unit if no sidecar names one.
        declared: the `Units` of the sidecar of each subject; empty for a subject without.
        wanted: `data.time_unit`, which goes before as a name.
    """
    units = {subject: unit_of(text) or text for subject, text in declared.items()}
    counts = Counter(unit for unit in units.values() if unit)
    if not counts:
        return StudyUnit(wanted or default, default)
    target = max(counts, key=lambda unit: counts[unit])
    if wanted and unit_of(wanted) in counts:
        target = unit_of(wanted)
    remarks = []
    named = unit_of_column(column)
    if named and set(counts) != {named} and not wanted:
        others = " and ".join(sorted(set(counts) - {named}))
        remarks.append(
            f"the sidecar gives {column} in {others}, against the name of the column; {named} is used: correct one of "
            "them, or set data.time_unit"
        )
    if named:
        return StudyUnit(wanted or named, named, {}, tuple(remarks))
    without = sorted(subject for subject, unit in units.items() if not unit)
    if without:
        remarks.append(
            f"no sidecar gives the unit of {column} of {len(without)} subjects ({some(without)}); {target} is used, as "
            "of the others: add Units"
        )
    factors = {subject: factor(unit, target) if unit else 1.0 for subject, unit in units.items()}
    if len(counts) > 1 and any(value not in (1.0, None) for value in factors.values()):
        remarks.append(f"{column} is in {' and '.join(sorted(counts))}, as the sidecars say; converted to {target}")
    return StudyUnit(wanted or target, target, factors, tuple(remarks))


def some(names: list[str]) -> str:
    """The first three of some names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
