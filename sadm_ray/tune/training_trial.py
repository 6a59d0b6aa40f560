"""A trial of the training sweep: a training run of its own, which Ray Tune may stop early."""

from __future__ import annotations

import contextlib
import fcntl
import math
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from sadm_ray.config import Settings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import DataError, Stopped
from sadm_ray.tracking import TrackedRun
from sadm_ray.tracking.log_record import LogRecord, Sink
from sadm_ray.train.trainer import train_model
from sadm_ray.tune.json_lines import JsonLines
from sadm_ray.tune.training_space import drawn_values, trial_settings

VALIDATED = "validated.jsonl"
"""In a trial's folder: the metrics of each validation, a line each."""
SCORES = ("val_gain", "val_loss", "val_copy_last", "steps")
"""What a trial reports after each validation."""
_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class TrainingTask:
    """What the trials of a sweep have in common: `settings` are the base, `folder` holds the runs of the trials."""

    settings: Settings
    study: Study
    folder: Path
    tracked: TrackedRun


class TrainingTrial(tune.Trainable):
    """A training in a thread of this process, on Ray Train's workers; every validation is a result for Ray Tune.

    The actor itself does next to nothing and holds no CPU. It needs no checkpoints of Ray Tune: a repeated trial
    resumes from those of its training.
    """

    def setup(self, config: dict[str, Any], task: TrainingTask) -> None:
        """Called by Ray Tune: start the training."""
        self._results: queue.Queue[dict[str, Any] | BaseException] = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(config, task), daemon=True)
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """Called by Ray Tune: wait for the next validation, or for the end."""
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def cleanup(self) -> None:
        """Called by Ray Tune when the trial has ended or is stopped: the training saves, and its workers exit."""
        self._stop.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self, config: dict[str, Any], task: TrainingTask) -> None:
        try:
            self._results.put(_train(config, task, self._results.put, self._stop))
        except BaseException as error:
            self._results.put(error)


def _train(
    config: dict[str, Any], task: TrainingTask, report: Callable[[dict[str, Any]], None], stop: threading.Event
) -> dict[str, Any]:
    """Train, and `report` each validation but the last, which is returned."""
    values = drawn_values(config, task.settings.tune.training)
    settings = trial_settings(task.settings, values, task.study, task.folder)
    objective = task.settings.tune.training.objective
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (settings.run_dir / "lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)  # trials with the same values share the training
        curve = _ValidationCurve(settings, objective, report)
        tracked = task.tracked.child(settings.run.name)
        forwarding = TrackedRun(tracked.key, _ForwardingSink(tracked.sink, curve.on_record))
        try:
            trained = train_model(settings, task.study, settings.run_dir / "model", forwarding, stop)
            last = curve.result(trained.facts["step"], trained.facts)
        except Stopped:
            tracked.tags({"stopped_early": "true"})
            tracked.finish()
            raise
        except BaseException:
            tracked.finish("FAILED")
            raise
        tracked.finish()
        return {**last, "ended": True, "done": True}


class _ValidationCurve:
    """The validation metrics by step, kept in the trial's folder. A repeated trial first reports them again.

    So ASHA has the same results of it as before.
    """

    def __init__(self, settings: Settings, objective: str, report: Callable[[dict[str, Any]], None]) -> None:
        self._settings, self._objective, self._report = settings, objective, report
        self._journal, self._last_step = JsonLines(settings.run_dir / VALIDATED), 0
        for entry in self._journal.entries():
            self._report_if_running(entry["step"], entry["values"])

    def on_record(self, record: LogRecord) -> None:
        """Called with every record of the training: a new validation is stored and reported."""
        if record.kind != "metrics" or self._objective not in record.body["values"]:
            return
        step, values = record.body["step"], record.body["values"]
        if step > self._last_step:  # else repeated after resuming from an older checkpoint
            self._journal.append({"step": step, "values": values})
            self._report_if_running(step, values)

    def result(self, step: int, values: dict[str, Any]) -> dict[str, Any]:
        """The result of a validation for Ray Tune.

        Raises:
            DataError: the objective is missing or not finite.
        """
        value = values.get(self._objective)
        if value is None:
            raise DataError("generate.tasks: no validation subject has the visits for any of them; change the tasks")
        if not math.isfinite(value):
            raise DataError(f"training broke down: {self._objective} is {value} at step {step}")
        return {"steps": step, "ended": False, **{key: values[key] for key in SCORES if key in values}}

    def _report_if_running(self, step: int, values: dict[str, Any]) -> None:
        self._last_step = step
        if step < self._settings.train.steps and math.isfinite(values[self._objective]):
            self._report(self.result(step, values))


@dataclass(frozen=True)
class _ForwardingSink:
    """Forwards the records of a training to the driver of the sweep, and to `on_record`.

    The models of trials are not registered.
    """

    sink: Sink
    on_record: Callable[[LogRecord], None]

    def put(self, record: LogRecord) -> None:
        """Forward a record."""
        if record.kind != "model":
            self.sink.put(record)
            self.on_record(record)

    def history(self, key: str, metric: str) -> list[tuple[int, float]]:
        """Empty: a trial has no connection to MLflow."""
        return []
