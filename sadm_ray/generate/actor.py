"""What one generation actor does: it holds the model and answers batches of subjects."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from sadm_ray import __version__
from sadm_ray.config import SamplingSettings, TaskSettings
from sadm_ray.data.rows import parse_row
from sadm_ray.generate.draw import draw
from sadm_ray.generate.writer import write_samples
from sadm_ray.model.sadm import Sadm
from sadm_ray.progress import Reporter

log = logging.getLogger(__name__)

PREDICTION_SCHEMA = pa.schema(
    {
        "subject": pa.string(),
        "task": pa.string(),
        "frame": pa.int64(),  # the slot
        "time": pa.float64(),
        "observed": pa.list_(pa.int64()),  # slots
        "samples": pa.large_binary(),  # float16, little-endian, C order
        "shape": pa.list_(pa.int64()),  # s c d h w
        "files": pa.list_(pa.string()),
        "error": pa.string(),  # empty, or why there is nothing
    }
)


@dataclass(frozen=True)
class Job:
    """Everything that an actor needs to know."""

    model: Path
    out: Path
    tasks: tuple[TaskSettings, ...]
    sampling: SamplingSettings
    samples: int
    seed: int
    time_unit: str
    reporter: Reporter
    gpu: bool = False


class GenerateActor:
    """Callable of Ray Data's actor pool: rows of the shards → one row a generated frame."""

    def __init__(self, job: Job) -> None:
        self._job = job
        device = "cuda" if job.gpu else "cpu"  # Ray hides no GPU from an actor that asked for none
        if device == "cpu":
            torch.set_num_threads(1)
        self._model = Sadm.from_pretrained(job.model, device)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Answer every task for every subject of the batch; a subject that fails is a row with its `error`."""
        rows = [parse_row(row) for row in table.to_pylist()]
        answers: list[dict[str, Any]] = []
        for task in self._job.tasks:
            try:
                answers += list(self._answer(rows, task))
            except Exception:  # one subject must not cost the others theirs: ask them one by one
                for row in rows:
                    answers += self._answer_alone(row, task)
        self._job.reporter.add.remote(len(rows))
        return pa.Table.from_pylist(answers, schema=PREDICTION_SCHEMA)

    def _answer_alone(self, row: Mapping[str, Any], task: TaskSettings) -> list[dict[str, Any]]:
        try:
            return list(self._answer([row], task))
        except Exception as error:
            log.exception("subject %s, task %s", row["subject"], task.name)
            nothing = np.zeros((0, *row["frames"].shape[1:]))
            return [_prediction(row["subject"], task.name, -1, np.nan, (), nothing, [], str(error))]

    def _answer(self, rows: Sequence[Mapping[str, Any]], task: TaskSettings) -> Iterator[dict[str, Any]]:
        job = self._job
        requests, samples = draw(self._model, rows, task, job.sampling, job.samples, job.seed)
        for index, (row, request) in enumerate(zip(rows, requests, strict=True)):
            subject = row["subject"]
            slots = np.flatnonzero(request.observed).tolist()
            observed = [round(float(row["times"][slot]), 4) for slot in slots]
            for target, time, volumes in zip(request.targets, request.target_times, samples[index], strict=True):
                facts = {
                    "Subject": subject,
                    "Task": task.name,
                    "Frame": target,
                    "Time": round(float(time), 4),
                    "TimeUnit": job.time_unit,
                    "ObservedTimes": observed,
                    "Seed": job.seed,
                    "Sampling": job.sampling.model_dump(mode="json"),
                    "Software": f"sadm-ray {__version__}",
                }
                files = write_samples(job.out / task.name, subject, target, volumes, row, facts)
                names = [str(file.relative_to(job.out)) for file in files]
                yield _prediction(subject, task.name, target, float(time), slots, volumes, names, "")


def _prediction(
    subject: str,
    task: str,
    frame: int,
    time: float,
    observed: Sequence[int],
    samples: np.ndarray,
    files: list[str],
    error: str,
) -> dict[str, Any]:
    """A row of the predictions (`PREDICTION_SCHEMA`)."""
    return {
        "subject": subject,
        "task": task,
        "frame": frame,
        "time": time,
        "observed": list(observed),
        "samples": samples.astype("<f2").tobytes(),
        "shape": list(samples.shape),
        "files": files,
        "error": error,
    }
