"""Scores one subject's predictions where they are read: the truth is read once, and only numbers are returned.

Frames are scored one after another; of earlier ones only the changed region is kept, for the scores of sequences.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sadm_ray.config import DerivedSettings
from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.evaluate.calibration import calibration, fair_crps
from sadm_ray.evaluate.derived_scores import derived_rows
from sadm_ray.evaluate.mean_change_baseline import MeanChange
from sadm_ray.evaluate.metrics import SCORES, score
from sadm_ray.evaluate.prediction import Prediction, Row, Truth
from sadm_ray.evaluate.sample_likeness import likeness
from sadm_ray.evaluate.score_tables import ESTIMATE, KEYS, shown_task
from sadm_ray.evaluate.structure_scores import PredictedStructures, copied_labels, structure_rows
from sadm_ray.evaluate.temporal_metrics import runs, temporal_scores
from sadm_ray.evaluate.ventricle_volumes import ventricle_rows
from sadm_ray.generate.generation_record import Origin, origin_of, read_predictions

if TYPE_CHECKING:
    from ray import ObjectRef


@dataclass(frozen=True)
class SubjectScores:
    """Rows of the tables, with the columns of `score_tables`: `METRICS_COLUMNS`, `CALIBRATION_COLUMNS` and so on.

    `problems` has a line for each label map that cannot be used, `remarks` for what is odd about one that is used.
    """

    metrics: list[Row] = field(default_factory=list)
    calibration: list[Row] = field(default_factory=list)
    temporal: list[Row] = field(default_factory=list)
    ventricles: list[Row] = field(default_factory=list)
    structures: list[Row] = field(default_factory=list)
    derived: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def score_file(
    item: Mapping[str, str],
    study: Study,
    change: ObjectRef[MeanChange] | None,
    labels: ObjectRef[LabelFiles | None],
    checksums: ObjectRef[Mapping[str, str]],
    models: tuple[str, ...],
    derived: tuple[DerivedSettings, ...] = (),
) -> dict[str, Any]:
    """Score the predictions in a `file`, as a task of Ray Data; returns JSON (`SubjectScores`) and how many they are.

    Args:
        change: the mean change in Ray's object store; None where it is not known.
        labels: the study's label maps, in Ray's object store.
        checksums: of each subject's stored row, in Ray's object store.
        models: the digests of those that drew what lies in the folder; empty where that is not known.
        derived: the numbers that are scored besides volumes.
    """
    import ray

    known = None if change is None else ray.get(change)
    rows = read_predictions(item["file"]).to_pylist()
    origin, stored = origin_of(item["file"]), ray.get(checksums)
    rows = [_refused(row, origin, stored.get(row["subject"]), models) for row in rows]
    scored = score_subjects(rows, study, known, ray.get(labels), derived)
    return {"scored": json.dumps(vars(scored)), "frames": len(rows)}


def _refused(row: Row, origin: Origin, stored: str | None, models: tuple[str, ...]) -> Row:
    """The row, with an error where it was not made by these models from the scans as they are prepared now."""
    error = row["error"]
    if origin.models and models and origin.models != models:
        error = error or "drawn by other models than the rest of the folder; remove its record and generate again"
    elif origin.checksum and stored and origin.checksum != stored:
        error = (
            error or "made from other scans, or from scans prepared otherwise, than are prepared now; generate again"
        )
    return {**row, "error": error}


def score_subjects(
    rows: Sequence[Row],
    study: Study,
    change: MeanChange | None,
    labels: LabelFiles | None,
    derived: Sequence[DerivedSettings] = (),
) -> SubjectScores:
    """Score predicted frames; never raises: a frame that fails has a row with its `error`, no method and no numbers.

    Args:
        rows: `error` is not empty where the generation failed. A frame without a true scan (of that contrast) gets no
            row.
    """
    scored = SubjectScores()
    named = [{**row, "contrast": row.get("contrast") or "", "task": shown_task(row)} for row in rows]
    in_order = sorted(named, key=lambda row: (row["subject"], row["contrast"], row["task"]))
    for (subject, contrast), theirs in groupby(in_order, key=lambda row: (str(row["subject"]), row["contrast"])):
        try:
            truth: Truth | Exception = Truth.read(study, subject, labels, contrast)
        except Exception as error:
            truth = error
        for _, group in groupby(theirs, key=lambda row: str(row["task"])):
            _score_task(list(group), truth, change and change.of(contrast), scored, derived, study.time_unit)
        if isinstance(truth, Truth):
            scored.problems.extend(truth.labels.problems)
            scored.remarks.extend(truth.labels.remarks)
    return scored


def _score_task(
    rows: Sequence[Row],
    truth: Truth | Exception,
    change: MeanChange | None,
    scored: SubjectScores,
    derived: Sequence[DerivedSettings],
    time_unit: str,
) -> None:
    kept: dict[int, dict[str, NDArray]] = {}  # by slot and method, the changed region alone
    observed: tuple[int, ...] = ()
    for row in rows:
        try:
            if row["error"]:
                scored.metrics.append(_failed(row, row["error"]))
                continue
            if isinstance(truth, Exception):
                raise truth  # noqa: TRY301
            if truth.can_score(row):
                predicted = Prediction.read(row, truth)
                kept[predicted.target] = _score_frame(row, truth, predicted, change, scored)
                observed = predicted.observed
                scored.ventricles.extend(_score_ventricles(row, truth, predicted, change))
                scored.structures.extend(_score_structures(row, truth, predicted))
                numbers = derived_rows(row, truth, predicted, derived, time_unit)
                scored.derived.extend({name: row[name] for name in KEYS} | number for number in numbers)
        except Exception as error:
            scored.metrics.append(_failed(row, f"{type(error).__name__}: {error}"))
    if not isinstance(truth, Exception):
        key = {"subject": rows[0]["subject"], "task": rows[0]["task"]}
        scored.temporal.extend(key | found for found in _score_sequence(kept, observed, truth))


def _score_frame(
    row: Row, truth: Truth, predicted: Prediction, change: MeanChange | None, scored: SubjectScores
) -> dict[str, NDArray]:
    """Add the frame's rows, all of them or none; returns of each method the values in the changed region."""
    true_frame, region = truth.frames[predicted.target], truth.regions["changed"]
    true_values, draws = true_frame[region], predicted.samples[:, region]
    metrics, kept = [], {}
    for method, volume in predicted.volumes(truth, change):
        scores = score(true_frame, volume, truth.regions)
        crps = fair_crps(true_values, draws) if method == predicted.ensemble else scores["mae_changed"]
        metrics.append({**_of(row), "method": method, **scores, "crps_changed": crps, "error": ""})
        kept[method] = volume[region]
    if len(draws) > 1:
        key = {"subject": row["subject"], "task": row["task"], "frame": predicted.target, "samples": len(draws)}
        likely = likeness(true_frame, predicted.center, predicted.samples)
        held = predicted.bounds_hold(true_frame, region)
        scored.calibration.append(key | calibration(true_values, draws) | held | likely)
    scored.metrics.extend(metrics)
    return kept


def _score_ventricles(row: Row, truth: Truth, predicted: Prediction, change: MeanChange | None) -> list[Row]:
    """The volumes of a heart's structures (ACDC), from the labelled observed scan nearest in time to the target.

    None where the voxel sizes are not known: what they give would be no ml.
    """
    target = predicted.target
    true_labels = truth.labels.at(target) if truth.labels.is_acdc and truth.labels.spacing_known else None
    if true_labels is None:
        return []
    for slot in sorted(predicted.observed, key=lambda slot: abs(truth.times[slot] - truth.times[target])):
        labels = truth.labels.at(slot)
        if slot != target and labels is not None:
            key = {name: row[name] for name in KEYS}
            observed, true = (truth.frames[slot], labels.labels), (truth.frames[target], true_labels.labels)
            methods = predicted.volumes(truth, change)
            return [key | found for found in ventricle_rows(*observed, *true, methods, truth.labels.voxel_mm)]
    return []


def _score_structures(row: Row, truth: Truth, predicted: Prediction) -> list[Row]:
    """The label maps that are known for the target against its own."""
    true_labels = truth.labels.at(predicted.target)
    if true_labels is None:
        return []
    key = {name: row[name] for name in KEYS}
    label_maps = list(copied_labels(truth.labels, truth.times, predicted.observed, predicted.target))
    ours = PredictedStructures.read(row)
    if ours is None:
        return [key | found for found in structure_rows(true_labels, label_maps, truth.labels)]
    label_maps.append((ESTIMATE, ours.labels))
    found = structure_rows(true_labels, label_maps, truth.labels, ours.intervals)
    return [key | each for each in found]


def _score_sequence(kept: Mapping[int, Mapping[str, NDArray]], observed: Sequence[int], truth: Truth) -> Iterator[Row]:
    """The temporal scores of every method that has a volume for all frames that follow each other."""
    region = truth.regions["changed"]
    found = runs(kept, observed, truth.present, truth.times)
    targets = [slot for run in found for slot in run if slot in kept]
    if not targets:
        return
    true_values = {slot: truth.frames[slot][region] for run in found for slot in run}
    for method in kept[targets[0]]:
        if all(method in kept[slot] for slot in targets):
            sequences = [
                (
                    truth.times[run],
                    np.stack([true_values[slot] for slot in run]),
                    np.stack([kept[slot][method] if slot in kept else true_values[slot] for slot in run]),
                )
                for run in found
            ]
            yield {"method": method, "frames": len(targets), **temporal_scores(sequences)}


def _of(row: Row) -> Row:
    return {name: row[name] for name in ("subject", "task", "frame", "time")}


def _failed(row: Row, error: str) -> Row:
    return {**_of(row), "method": "", **dict.fromkeys(SCORES, float("nan")), "error": error}
