"""What one generation actor does: it holds the model and answers batches of subjects."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sadm_ray import __version__
from sadm_ray.config import SamplingSettings, TaskSettings
from sadm_ray.generate.draw import draw
from sadm_ray.generate.writer import write_samples
from sadm_ray.model.sadm import Sadm
from sadm_ray.progress import Reporter

log = logging.getLogger(__name__)


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

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Answer every task for every subject of the batch; a subject that fails is a row with its `error`."""
        answers: list[dict[str, Any]] = []
        for task in self._job.tasks:
            try:
                answers += list(self._answer(rows, task))
            except Exception:  # one subject must not cost the others theirs: ask them one by one
                for index in range(len(rows["subject"])):
                    answers += self._answer_alone({key: column[[index]] for key, column in rows.items()}, task)
        self._job.reporter.add.remote(len(rows["subject"]))
        return {key: [answer[key] for answer in answers] for key in answers[0]}

    def _answer_alone(self, row: Mapping[str, np.ndarray], task: TaskSettings) -> list[dict[str, Any]]:
        try:
            return list(self._answer(row, task))
        except Exception as error:
            log.exception("subject %s, task %s", row["subject"][0], task.name)
            nothing = np.zeros((self._job.samples, *row["frames"].shape[2:]), dtype=np.float16)
            observed = np.zeros(row["present"].shape[1], dtype=bool)
            return [self._row(str(row["subject"][0]), task.name, -1, np.nan, observed, nothing, [], str(error))]

    def _answer(self, rows: Mapping[str, np.ndarray], task: TaskSettings) -> Iterator[dict[str, Any]]:
        job = self._job
        requests, samples = draw(self._model, rows, task, job.sampling, job.samples, job.seed)
        for index, request in enumerate(requests):
            subject = str(rows["subject"][index])
            geometry = {key: rows[key][index] for key in ("affine", "spacing", "source_shape", "intensity")}
            observed = [round(float(time), 4) for time in rows["times"][index][request.observed]]
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
                files = write_samples(job.out / task.name, subject, target, volumes, geometry, facts)
                names = [str(file.relative_to(job.out)) for file in files]
                yield self._row(subject, task.name, target, float(time), request.observed, volumes, names, "")

    @staticmethod
    def _row(
        subject: str,
        task: str,
        frame: int,
        time: float,
        observed: np.ndarray,
        samples: np.ndarray,
        files: list[str],
        error: str,
    ) -> dict[str, Any]:
        return {
            "subject": subject,
            "task": task,
            "frame": frame,
            "time": time,
            "observed": observed,
            "samples": samples.astype(np.float16),
            "files": "\n".join(files),
            "error": error,
        }
