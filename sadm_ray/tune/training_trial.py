"""One trial of the sweep of training settings: a training run of its own, which Ray Tune may end early."""

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
"""In a trial's folder: what each validation told, a line each."""
SCORES = ("val_gain", "val_loss", "val_copy_last", "steps")
"""What a trial reports of what its training validated."""
_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class TrainingTask:
    """What every trial is given: `settings` are the base, `folder` is where the trials' runs are."""

    settings: Settings
    study: Study
    folder: Path
    tracked: TrackedRun


class TrainingTrial(tune.Trainable):
    """A training in a thread of this process, on Ray Train's workers; each of its validations is a result for Tune.

    The actor itself has next to nothing to do and holds no CPU. It needs no checkpoints of Ray Tune's: a trial that is
    begun again goes on from those of its training.
    """

    def setup(self, config: dict[str, Any], sweep: TrainingTask) -> None:
        """Called by Ray Tune: begin to train."""
        self._results: queue.Queue[dict[str, Any] | BaseException] = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(config, sweep), daemon=True)
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """Called by Ray Tune: wait for the next validation, or for the end."""
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def cleanup(self) -> None:
        """Called by Ray Tune when the trial has ended or is to end: the training saves, and its workers leave."""
        self._stop.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self, config: dict[str, Any], sweep: TrainingTask) -> None:
        try:
            self._results.put(_train(config, sweep, self._results.put, self._stop))
        except BaseException as error:
            self._results.put(error)


def _train(
    config: dict[str, Any], sweep: TrainingTask, report: Callable[[dict[str, Any]], None], stop: threading.Event
) -> dict[str, Any]:
    """Train, and `report` each validation but the last, which is returned."""
    values = drawn_values(config, sweep.settings.tune.training)
    settings = trial_settings(sweep.settings, values, sweep.study, sweep.folder)
    objective = sweep.settings.tune.training.objective
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (settings.run_dir / "lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)  # two trials that drew the same values share the training
        curve = _Curve(settings, objective, report)
        tracked = sweep.tracked.child(settings.run.name)
        heard = TrackedRun(tracked.key, _Heard(tracked.sink, curve.hear))
        try:
            trained = train_model(settings, sweep.study, settings.run_dir / "model", heard, stop)
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


class _Curve:
    """The objective by step, kept in the trial's folder: a trial that is begun again first tells what it told before.

    ASHA then judges it as it did.
    """

    def __init__(self, settings: Settings, objective: str, report: Callable[[dict[str, Any]], None]) -> None:
        self._settings, self._objective, self._report = settings, objective, report
        self._journal, self._told = JsonLines(settings.run_dir / VALIDATED), 0
        for entry in self._journal.entries():
            self._tell(entry["step"], entry["values"])

    def hear(self, record: LogRecord) -> None:
        """Take in what the training records: a validation is kept and reported, unless it was before."""
        if record.kind != "metrics" or self._objective not in record.body["values"]:
            return
        step, values = record.body["step"], record.body["values"]
        if step > self._told:  # else done again, since the newest checkpoint is older
            self._journal.append({"step": step, "values": values})
            self._tell(step, values)

    def result(self, step: int, values: dict[str, Any]) -> dict[str, Any]:
        """A result for Ray Tune.

        Raises:
            DataError: there is no objective, or it is not a finite number.
        """
        value = values.get(self._objective)
        if value is None:
            raise DataError("generate.tasks: no validation subject has the visits for any of them; change the tasks")
        if not math.isfinite(value):
            raise DataError(f"training broke down: {self._objective} is {value} at step {step}")
        return {"steps": step, "ended": False, **{key: values[key] for key in SCORES if key in values}}

    def _tell(self, step: int, values: dict[str, Any]) -> None:
        self._told = step
        if step < self._settings.train.steps and math.isfinite(values[self._objective]):
            self._report(self.result(step, values))


@dataclass(frozen=True)
class _Heard:
    """Passes a training's records on to the driver of the sweep, and lets the trial hear them.

    The models of trials are not registered: the one that is trained with the best settings will be.
    """

    sink: Sink
    hear: Callable[[LogRecord], None]

    def put(self, record: LogRecord) -> None:
        """Take in a record."""
        if record.kind != "model":
            self.sink.put(record)
            self.hear(record)

    def history(self, key: str, metric: str) -> list[tuple[int, float]]:
        """Nothing: a trial does not talk to MLflow."""
        return []
