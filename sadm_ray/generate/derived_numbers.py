"""Numbers that are derived from volumes at two visits (`generate.derived`): a table with an interval for each.

Each is computed of the estimate and of every sample, with the baseline as it was observed. It rises or falls with the
volume, so the ends of the volume's interval, also of the corrected one, are the ends of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from sadm_ray.config import DerivedSettings
from sadm_ray.data.find.time_units import YEAR, unit_of
from sadm_ray.errors import ConfigError
from sadm_ray.generate.structure_volumes import Corrections, interval
from sadm_ray.generate.volume_corrections import NOT_CORRECTED

if TYPE_CHECKING:
    import pandas as pd

DERIVED = "derived.csv"
DERIVED_COLUMNS = [
    "subject", "task", "frame", "time", "baseline_time", "name", "unit", "samples",
    "estimate", "median", "low", "high", "corrected_low", "corrected_high", "level", "held_out",
    "fitted_for",
]  # fmt: skip
UNITS = {"ejection_fraction": "%", "annual_change": "%/year"}


def check_derived(wanted: Sequence[DerivedSettings], time_unit: str) -> None:
    """Refuse a change a year where it is not known what a year is.

    Args:
        time_unit: of the study.

    Raises:
        ConfigError: so it is.
    """
    for each in wanted:
        if each.kind == "annual_change" and unit_of(time_unit) not in YEAR:
            raise ConfigError(
                f"generate.derived: '{each.name}' is a change a year, and the times of this study are in "
                f"{time_unit or 'no unit'}; set data.time_unit to one of {', '.join(YEAR)}, or leave it out"
            )


def derive(
    kind: str, first: float, at: Float[np.ndarray, "*n"], since: float, time_unit: str
) -> Float[np.ndarray, "*n"]:
    """The number of a kind, in its unit (`UNITS`); NaN where the first volume is 0, or no time has passed.

    Args:
        first: the volume at the baseline.
        at: volumes at the other visit, in the same unit.
        since: the time between them, in the study's unit.
    """
    change = 100 * (np.asarray(at, dtype=np.float64) - first) / first if first > 0 else np.full(np.shape(at), math.nan)
    if kind == "ejection_fraction":
        return -change
    years = since / YEAR[unit_of(time_unit)]
    return change / years if years else np.full(np.shape(at), math.nan)


def derived_table(
    volumes: pd.DataFrame, wanted: Sequence[DerivedSettings], time_unit: str, level: float, corrections: Corrections
) -> pd.DataFrame:
    """A row a (subject, task, frame, number), with the columns `DERIVED_COLUMNS`.

    A subject whose label maps lack a structure has no row. The corrected interval is that of the volume; a sum of
    structures has none.

    Args:
        volumes: `structure_volumes.VOLUMES_COLUMNS`.
        time_unit: of the study.
    """
    import pandas as pd

    rows = []
    for (subject, task), every in volumes.groupby(["subject", "task"], sort=False):
        seen, generated = (every[every["origin"] == origin] for origin in ("observed", "generated"))
        if seen.empty:
            continue
        baseline = seen[seen["time"].astype(float) == seen["time"].astype(float).min()]
        for (frame, time), its in generated.groupby(["frame", "time"], dropna=False, sort=False):
            about = {"subject": subject, "task": task, "frame": frame, "time": time}
            about |= {"baseline_time": baseline["time"].iloc[0], "level": level}
            rows += [about | found for found in _numbers(about, baseline, its, wanted, time_unit, corrections)]
    return pd.DataFrame(rows, columns=DERIVED_COLUMNS).astype({"frame": "Int64", "held_out": "Int64"})


def _numbers(
    about: dict[str, Any],
    baseline: pd.DataFrame,
    generated: pd.DataFrame,
    wanted: Sequence[DerivedSettings],
    time_unit: str,
    corrections: Corrections,
) -> Iterator[dict[str, Any]]:
    since = float(about["time"]) - float(about["baseline_time"])
    for each in wanted:
        names = list(each.structures)
        if not set(names) <= set(baseline["structure"]):
            continue
        first = float(baseline.loc[baseline["structure"].isin(names), "voxels"].sum())
        sizes = generated[generated["structure"].isin(names)].groupby("sample")["voxels"].sum().sort_index()
        samples = sizes.to_numpy(float)[1:]  # 0 is the estimate
        key = str(about["subject"]), str(about["task"]), names[0]
        correction = corrections.get(key, NOT_CORRECTED) if len(names) == 1 else NOT_CORRECTED
        ends = *interval(samples, about["level"]), *interval(samples, about["level"], correction.factor)
        middle = float(np.median(samples)) if len(samples) else math.nan
        numbers = derive(each.kind, first, np.array([sizes.iloc[0], middle, *ends]), since, time_unit)
        low, high = np.sort(numbers[2:4])
        corrected_low, corrected_high = np.sort(numbers[4:])
        yield {
            "name": each.name,
            "unit": UNITS[each.kind],
            "samples": len(samples),
            "estimate": numbers[0],
            "median": numbers[1],
            "low": low,
            "high": high,
            "corrected_low": corrected_low,
            "corrected_high": corrected_high,
            "held_out": correction.subjects if len(samples) > 1 else None,
            "fitted_for": correction.fitted_for if len(samples) > 1 else None,
        }


def without_structures(volumes: pd.DataFrame, wanted: Sequence[DerivedSettings]) -> Iterator[str]:
    """A line for each number of which no label map has the structures."""
    known = list(dict.fromkeys(volumes["structure"]))
    for each in wanted:
        lacking = [name for name in each.structures if name not in known]
        if lacking and known:
            have = ", ".join(known)
            yield f"generate.derived: no label map has {lacking[0]!r}, of which {each.name} is made; they have {have}"
