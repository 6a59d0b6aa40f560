"""Scores of numbers that are derived from volumes (`generate.derived`), where the true label maps are known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sadm_ray.config import DerivedSettings
from sadm_ray.data.label_maps import PreparedLabels
from sadm_ray.evaluate.prediction import Prediction, Truth
from sadm_ray.evaluate.score_tables import ESTIMATE
from sadm_ray.evaluate.structure_scores import copied_labels
from sadm_ray.generate.derived_numbers import derive, derived_table
from sadm_ray.generate.structure_volumes import kept_corrections, record_rows, volumes_table


def derived_rows(
    row: Mapping[str, Any], truth: Truth, predicted: Prediction, wanted: Sequence[DerivedSettings], time_unit: str
) -> Iterator[dict[str, Any]]:
    """Of each number the true one beside that of the copied label map and the predicted one, with its intervals.

    Args:
        row: of a record (`generation_record.PREDICTION_SCHEMA`).
        time_unit: of the study.

    Returns:
        part of `score_tables.DERIVED_SCORES_COLUMNS`; nothing where the target or the baseline has no label map.
    """
    target, times = predicted.target, truth.times
    at = truth.labels.at(target)
    labelled = [slot for slot in predicted.observed if truth.labels.at(slot) is not None]
    if at is None or not labelled:
        return
    slot = min(labelled, key=lambda each: float(times[each]))
    first, since = truth.labels.at(slot), float(times[target] - times[slot])
    for each in wanted:
        before = _volume(first, each.structures)
        true = float(derive(each.kind, before, np.array(_volume(at, each.structures)), since, time_unit))
        if math.isnan(true):
            continue
        for method, labels in copied_labels(truth.labels, times, predicted.observed, target):
            copied = derive(each.kind, before, np.array(_volume(labels, each.structures)), since, time_unit)
            yield {"method": method, "name": each.name, **_scores(true, float(copied))}
        for number in _predicted(row, each, time_unit):
            yield {"method": ESTIMATE, "name": each.name, **_scores(true, number["estimate"], number)}


def _predicted(row: Mapping[str, Any], each: DerivedSettings, time_unit: str) -> list[dict[str, Any]]:
    """The number of a frame, as in `derived.csv`; none of a frame without structures."""
    if not row.get("structures"):
        return []
    volumes = volumes_table(list(record_rows([row])))
    level = json.loads(row["structures"])["level"]
    table = derived_table(volumes, [each], time_unit, level, dict(kept_corrections([row])))
    return [{str(key): value for key, value in number.items()} for number in table.to_dict("records")]


def _volume(labels: PreparedLabels | None, structures: Sequence[str]) -> float:
    return sum(float(labels.volumes.get(name, 0)) for name in structures) if labels else 0.0


def _scores(true: float, predicted: float, number: Mapping[str, Any] | None = None) -> dict[str, float]:
    found = {"true": true, "predicted": predicted, "error": abs(predicted - true)}
    found["interval_level"] = math.nan if number is None or math.isnan(number["low"]) else number["level"]
    for kind, ends in (("interval", ("low", "high")), ("corrected", ("corrected_low", "corrected_high"))):
        low, high = (math.nan, math.nan) if number is None else (number[end] for end in ends)
        found[f"{kind}_width"] = high - low
        found[f"{kind}_holds"] = math.nan if math.isnan(low) else float(low <= true <= high)
    return found
