"""What another treatment changes: differences of structures between answers that were drawn from the same noise.

A sample under one treatment and the sample of that number under another one differ by the treatment alone, so that the
interval of their difference is narrower than that of independent samples. It ranges over what may happen to this
subject. Whether the model has learned a cause, or only who is treated, no interval tells.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from sadm_ray.generate.given_covariates import in_words
from sadm_ray.generate.request import Request
from sadm_ray.generate.structure_volumes import NUMBERS, Corrections, interval
from sadm_ray.generate.volume_corrections import NOT_CORRECTED

if TYPE_CHECKING:
    import pandas as pd

DIFFERENCES = "differences.csv"
"""The name of the table."""

_SIZES = ("ml", "voxels")
DIFFERENCES_COLUMNS = [
    "subject", "task", "given", "minus", "frame", "time", "structure", "samples",
    *(f"{name}_{size}" for size in _SIZES for name in NUMBERS), "level", "held_out",
]  # fmt: skip

_Sizes = dict[tuple[Any, ...], dict[int, Mapping[str, float]]]
"""Of each frame and structure the row of the estimate, 0, and of each sample."""


def pairs_of(requests: Iterable[Request]) -> list[tuple[Request, Request]]:
    """The requests of a subject that differ in what is given alone: the earlier one first."""
    alike: dict[str, list[Request]] = {}
    for request in requests:
        if request.given:
            same = replace(request, name="", label="", given={}, samples=0).to_json() | {"paired": request.paired}
            alike.setdefault(json.dumps(same, sort_keys=True), []).append(request)
    return [pair for some in alike.values() for pair in combinations(some, 2)]


def difference_rows(
    rows: Sequence[Mapping[str, Any]], requests: Iterable[Request], level: float, corrections: Corrections | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of the table (`DIFFERENCES_COLUMNS`) of one subject: `given` less `minus`, sample by sample.

    The median of the differences and their central prediction interval (`structure_volumes.interval`) are of the
    samples that both have. The corrected interval is that multiplied by the factor which the volumes of held-out
    subjects need (`structure_volumes.summarise_volumes`), the larger one of the two answers: nobody's other treatment
    is known, so that it cannot be fitted on differences.

    Args:
        rows: of its volumes (`structure_volumes.record_rows`).
        requests: all of the subject's.
        level: of the intervals, between 0 and 1.
    """
    for first, second in pairs_of(requests):
        before, after = _sizes(rows, first), _sizes(rows, second)
        for key, sizes in after.items():
            both = [sample for sample in sizes if sample in before.get(key, ())]
            if 0 not in both:
                continue
            subject, frame, time, structure = key
            found = {"subject": subject, "task": second.paired, "given": in_words(second.given)}
            found |= {"minus": in_words(first.given), "frame": frame, "time": time, "structure": structure}
            its = [(corrections or {}).get((subject, each.name, structure), NOT_CORRECTED) for each in (first, second)]
            known = [each.factor for each in its if each.factor is not None]
            factor = max(known) if len(known) == len(its) else None
            held_out = min(each.subjects for each in its)
            found |= {"samples": len(both) - 1, "level": level, "held_out": held_out}
            for name in _SIZES:
                apart = {sample: sizes[sample][name] - before[key][sample][name] for sample in both}
                drawn = np.array([each for sample, each in apart.items() if sample])
                median = float(np.median(drawn)) if len(drawn) else math.nan
                ends = (*interval(drawn, level, least=-math.inf), *interval(drawn, level, factor, least=-math.inf))
                numbers = zip(NUMBERS, (apart[0], median, *ends), strict=True)
                found |= {f"{number}_{name}": value for number, value in numbers}
            yield found


def differences_table(
    rows: Iterable[Sequence[Mapping[str, Any]]],
    requests: Iterable[Sequence[Request]],
    level: float,
    corrections: Corrections | None = None,
) -> pd.DataFrame:
    """The table of all subjects; arguments as in `difference_rows`, of each subject in turn."""
    import pandas as pd

    found = [row for each in zip(rows, requests, strict=True) for row in difference_rows(*each, level, corrections)]
    return pd.DataFrame(found, columns=DIFFERENCES_COLUMNS).astype({"frame": "Int64"})


def _sizes(rows: Sequence[Mapping[str, Any]], request: Request) -> _Sizes:
    found: _Sizes = {}
    for row in rows:
        if row["origin"] == "generated" and row["task"] == request.name:
            key = (row["subject"], row["frame"], row["time"], row["structure"])
            found.setdefault(key, {})[row["sample"]] = row
    return found
