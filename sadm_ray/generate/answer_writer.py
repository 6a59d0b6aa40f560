"""Writes the answer to one request of one subject, and says what its record holds."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from sadm_ray.data.shards.prepared_study import PREPARATION_SETTINGS
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.generate.actor_job import Drawn, GenerationJob, dealt, samples_of
from sadm_ray.generate.bids_dataset import source_paths
from sadm_ray.generate.bids_names import SubjectNames, is_cine
from sadm_ray.generate.bounds_wanted import widths_for
from sadm_ray.generate.generation_plan import SubjectJob
from sadm_ray.generate.moved_structures import MovedStructures
from sadm_ray.generate.request import NO_SLOT, Query, Request
from sadm_ray.generate.structure_volumes import structures_json
from sadm_ray.generate.volume_corrections import VolumeCorrection, corrections_for
from sadm_ray.generate.volume_writer import Predicted, SubjectWriter, shown_time
from sadm_ray.model.prediction_bounds import BoundWidths
from sadm_ray.storage import Storage

Row = Mapping[str, Any]


def write_answer(
    row: Row,
    subject_job: SubjectJob,
    request: Request,
    query: Query,
    parts: Sequence[Drawn | Exception],
    job: GenerationJob,
) -> list[dict[str, Any]]:
    """Write what was drawn for a request; returns its rows of the record.

    Args:
        parts: the estimate of each model, then the samples of the first, and so on.

    Raises:
        Exception: the first of `parts` that is one.
        ValueError: voxels are not finite.
    """
    failed = [part for part in parts if isinstance(part, Exception)]
    if failed:
        raise failed[0]
    drawn = [part for part in parts if isinstance(part, Drawn)]
    if not drawn:
        return []
    models = len(job.models)
    by_model = [sample for part in drawn for sample in part.volumes.swapaxes(0, 1)]
    order = [
        models + place for place in np.argsort([each for its in dealt(samples_of(request), models) for each in its])
    ]
    samples = [by_model[place] for place in order]  # of each all targets; views, no copies
    estimated = np.mean(by_model[:models], axis=0)
    slots = np.flatnonzero(query.observed).tolist()
    if not np.isfinite(by_model).all():
        raise ValueError("the model gave voxels that are not finite; nothing is written of it")
    moved = _moved(drawn, models, order)
    rows: list[dict[str, Any]] = []
    for channel in range(len(row["contrasts"])):
        its = of_contrast(row, channel)
        its_slots = [slot for slot in slots if its["present"][slot]]
        if its_slots:  # of a contrast that was not observed nothing is known
            volumes = np.array([sample[:, channel] for sample in samples]).reshape(-1, *estimated[:, channel].shape)
            predicted = Predicted(estimated[:, channel], volumes, _widths(request, job))
            structures = None if rows else moved  # they are those of the visit, not of a contrast
            rows += _write_contrast(its, subject_job, request, query, its_slots, predicted, structures, job)
    return rows


def _moved(drawn: Sequence[Drawn], models: int, order: Sequence[int]) -> list[MovedStructures] | None:
    """The structures of each target; None of a subject without, or where the model does not move the frames."""
    structures = drawn[0].structures
    if structures is None or any(part.shares is None for part in drawn):
        return None
    by_model = [sample for part in drawn if part.shares is not None for sample in part.shares.swapaxes(0, 1)]
    samples = np.array([by_model[place] for place in order]).reshape(-1, *by_model[0].shape)
    estimated = np.array(by_model[:models]).mean(axis=0, dtype=np.float32)
    return [MovedStructures(structures, estimated[target], samples[:, target]) for target in range(samples.shape[1])]


def _write_contrast(
    row: Row,
    subject_job: SubjectJob,
    request: Request,
    query: Query,
    slots: Sequence[int],
    predicted: Predicted,
    structures: Sequence[MovedStructures] | None,
    job: GenerationJob,
) -> list[dict[str, Any]]:
    """Write what is predicted of one contrast, observed in `slots`; returns its rows of the record.

    Args:
        predicted: of all targets (m d h w).
        structures: of each target; None: none are written.
    """
    (contrast,) = row["contrasts"]
    facts = {**({"Contrast": contrast} if contrast else {}), **_facts(row, request, slots, job)}
    if predicted.widths is not None:
        facts["Bounds"] = predicted.widths.in_words()
    writer = SubjectWriter(Storage(job.out), SubjectNames(row, subject_job.file_label, request.file_label), row)
    corrections = {} if structures is None else _corrections(request, structures[0].observed.values, job)
    cine, times = is_cine(row, str(job.study.settings.get("layout", ""))), query.target_times.tolist()
    planned = query.planned(row, job.planned) if job.planned else []
    rows = []
    for target, (slot, time) in enumerate(zip(query.targets, times, strict=True)):
        its = Predicted(predicted.estimate[target], predicted.samples[:, target], predicted.widths)
        frame = None if slot == NO_SLOT else slot
        if not cine:
            about = {**facts, "PlannedCovariates": planned[target]} if planned else facts
            writer.write_frame(frame, time, its, job.estimates, about)
            if structures is not None:
                writer.write_labels(frame, time, structures[target], job.estimates, about)
        kept = its if request.task is not None else None
        rows.append(_record_row(row["subject"], request.name, frame, time, slots, kept, contrast))
        rows[-1]["planned"] = json.dumps(planned[target]) if planned else None
        if structures is not None:
            rows[-1]["structures"] = structures_json(structures[target], row["times"], job.level, corrections)
            rows[-1]["labels"] = None if kept is None else structures[target].labels.astype("<i4").tobytes()
        rows[-1]["files"], writer.written = writer.written, []
    if planned:
        facts["PlannedCovariates"] = planned  # of each generated frame
    scanned = [(float(row["times"][slot]), row["frames"][slot, 0]) for slot in slots]
    if cine:
        writer.write_cine(scanned, times, predicted, job.estimates, facts)
        if structures is not None:
            when = [(slot, float(row["times"][slot])) for slot in slots]
            writer.write_cine_labels(when, times, structures, job.estimates, facts)
    if job.sequence:
        generated = [(time, True, volume) for time, volume in zip(times, predicted.estimate, strict=True)]
        observed = [(time, False, volume) for time, volume in scanned]
        writer.write_sequence([*observed, *generated], facts, is_cine=cine)
    rows[-1]["files"] += writer.written
    return rows


def _widths(request: Request, job: GenerationJob) -> BoundWidths | None:
    """The bounds of a request's frames; None of an ensemble, of one volume, or where the model is not calibrated."""
    if len(job.models) > 1 or samples_of(request) < 2:
        return None
    return widths_for(job.models[0].recalibration, None if request.task is None else request.name, job.level)


def _corrections(request: Request, structures: Iterable[str], job: GenerationJob) -> Mapping[str, VolumeCorrection]:
    """Of the intervals of volumes; none where there are no bounds of voxels either."""
    if len(job.models) > 1 or samples_of(request) < 2:
        return {}
    task = None if request.task is None else request.name
    return corrections_for(job.models[0].recalibration, task, structures, job.level)


def _facts(row: Row, request: Request, slots: Sequence[int], job: GenerationJob) -> dict[str, Any]:
    return {
        "Subject": row["subject"],
        "Task": request.name,
        "TimeUnit": job.study.time_unit,
        "Sources": source_paths(row, slots),
        "ObservedTimes": [shown_time(row["times"][slot]) for slot in slots],
        "Seed": request.seed,
        "Checkpoint": job.digests[0] if len(job.digests) == 1 else list(job.digests),
        "Sampling": job.sampling.model_dump(mode="json"),
        "Preparation": {key: job.study.settings.get(key) for key in PREPARATION_SETTINGS},
        "Software": _versions(),
    }


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in ("sadm-ray", "torch", "nibabel")}


def _record_row(
    subject: str,
    task: str,
    frame: int | None,
    time: float,
    observed: Sequence[int],
    predicted: Predicted | None,
    contrast: str = "",
) -> dict[str, Any]:
    """A row of the record (`PREDICTION_SCHEMA`), without files."""
    return {
        "subject": subject,
        "task": task,
        "contrast": contrast,
        "frame": frame,
        "time": time,
        "observed": list(observed),
        "estimate": None if predicted is None else predicted.estimate.astype("<f2").tobytes(),
        "samples": None if predicted is None else predicted.samples.astype("<f2").tobytes(),
        "bounds": None if predicted is None or predicted.widths is None else json.dumps(asdict(predicted.widths)),
        "structures": None,
        "labels": None,
        "planned": None,
        "shape": None if predicted is None else [len(predicted.samples), 1, *predicted.estimate.shape],
        "files": [],
        "error": "",
    }


def failure_row(subject: str, task: str, error: Exception) -> dict[str, Any]:
    """The row of a request that failed."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return {**_record_row(subject, task, -1, float("nan"), (), None), "error": reason}
