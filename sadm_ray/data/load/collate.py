"""Rows of the shards as one batch: sequences padded to the longest, with a mask, and covariates as numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from sadm_ray.config import CovariateSettings


@dataclass(frozen=True)
class SequenceBatch:
    """Sequences of some subjects; shorter ones are padded with zeros at the end and marked absent there.

    `lengths` are the numbers of slots before padding. `has_channel` says which channels each slot has; none where
    there is one alone. Covariates are as `SequenceModel.generate` takes them; none without settings of that kind.
    `planned` are those of each slot as a target: the visit's, or else the subject's, such as the arm of a trial.
    """

    subjects: tuple[str, ...]
    lengths: tuple[int, ...]
    frames: Float32[np.ndarray, "b t c d h w"]
    present: Bool[np.ndarray, "b t"]
    times: Float32[np.ndarray, "b t"]
    covariates: Float32[np.ndarray, "b n"] | None
    visit_covariates: Float32[np.ndarray, "b t m"] | None
    has_channel: Bool[np.ndarray, "b t c"] | None = None
    planned: Float32[np.ndarray, "b t v"] | None = None


def collate(rows: Sequence[Mapping[str, Any]], covariates: Sequence[CovariateSettings] = ()) -> SequenceBatch:
    """Stack rows (`sadm_ray.data.shards.subject_row.parse_row`)."""
    stored = [json.loads(row["covariates"]) for row in rows] if covariates else []
    of_subjects = [each for each in covariates if each.of == "subject"]
    of_visits = [each for each in covariates if each.of == "visit"]
    values = [[_value(each, row["subject"].get(each.name)) for each in of_subjects] for row in stored]
    visits = [np.array([visit_values(visit, of_visits) for visit in row["visits"]], np.float32) for row in stored]
    return SequenceBatch(
        subjects=tuple(row["subject"] for row in rows),
        lengths=tuple(len(row["present"]) for row in rows),
        frames=_padded([row["frames"] for row in rows], np.float32(0)),
        present=_padded([row["present"] for row in rows], np.False_),
        times=_padded([row["times"] for row in rows], np.float32(0)),  # distinct in float32: `order_visits` sees to it
        covariates=np.array(values, np.float32) if of_subjects else None,
        visit_covariates=_padded(visits, np.float32(np.nan)) if of_visits else None,
        has_channel=_padded([row["has_channel"] for row in rows], np.False_) if _are_many(rows) else None,
        planned=_planned(stored, of_visits),
    )


def planned_values(
    stored: Mapping[str, Any], slot: int | None, covariates: Sequence[CovariateSettings]
) -> dict[str, float | str]:
    """What the study's tables say of the planned ones of a wanted visit, by name, as far as the settings know it.

    Args:
        stored: the covariates of a subject, as a row has them in JSON.
        slot: of the visit; None where it has none.
    """
    visit = {} if slot is None else stored["visits"][slot]
    known = {each: visit.get(each.name, stored["subject"].get(each.name)) for each in covariates if each.planned}
    return {each.name: value for each, value in known.items() if np.isfinite(_value(each, value))}


def visit_values(values: Mapping[str, float | str], of_visits: Sequence[CovariateSettings]) -> list[float]:
    """Values by name as numbers in the columns of `visit_covariates`; NaN for what is missing or unknown."""
    return [_value(each, values.get(each.name)) for each in of_visits]


def _planned(
    stored: Sequence[Mapping[str, Any]], of_visits: Sequence[CovariateSettings]
) -> Float32[np.ndarray, "b t v"] | None:
    if not any(each.planned for each in of_visits):
        return None
    of_slots = [
        [visit_values(planned_values(each, slot, of_visits), of_visits) for slot in range(len(each["visits"]))]
        for each in stored
    ]
    return _padded([np.array(values, np.float32) for values in of_slots], np.float32(np.nan))


def _are_many(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows[0]["frames"].shape[1] > 1)


def _padded(arrays: Sequence[np.ndarray], fill: np.generic) -> np.ndarray:
    longest = max(len(array) for array in arrays)
    padded = np.full((len(arrays), longest, *arrays[0].shape[1:]), fill)
    for target, array in zip(padded, arrays, strict=True):
        target[: len(array)] = array
    return padded


def covariate_value(settings: CovariateSettings, value: float | str) -> float | None:
    """A number, or the index of a level; none for what is neither."""
    if settings.levels:
        levels = [level.casefold() for level in settings.levels]
        text = (f"{value:g}" if isinstance(value, float) else str(value)).casefold()
        return float(levels.index(text)) if text in levels else None
    try:
        return float(value)
    except ValueError:
        return None


def _value(settings: CovariateSettings, value: float | str | None) -> float:
    """The same; NaN for what is missing or unknown."""
    found = None if value is None else covariate_value(settings, value)
    return np.nan if found is None else found
