"""The trainings of a comparison: Ray Tune runs them in parallel, each on Ray Train."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from sadm_ray.cluster import warn_of_idle
from sadm_ray.compare.compared_models import Member
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import reason_of
from sadm_ray.progress import Reporter, progress
from sadm_ray.tracking import TrackedRun, run_for_workers
from sadm_ray.tracking.log_record import LogRecord, Sink
from sadm_ray.train.trainer import train_model

RETRIES = 1
"""How often a failed training is repeated, beside the restarts of Ray Train itself."""


@dataclass(frozen=True)
class _TrainingTask:
    """What the trainings have in common."""

    members: Mapping[str, Member]
    study: Study
    tracked: TrackedRun
    reporter: Reporter


def train_members(
    members: Sequence[Member], study: Study, out: Path, concurrent: int, tracked: TrackedRun
) -> list[str]:
    """Train all members; unfinished trainings are resumed, finished ones are kept.

    Every member becomes a child run of `tracked`.

    Returns:
        a line for each member that failed.
    """
    by_name = {member.name: member for member in members}
    storage = out.absolute() / "ray"
    shutil.rmtree(storage, ignore_errors=True)  # of a comparison that was killed; trainings have their own checkpoints
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are listed at the end, a line each
    warn_of_idle("compare.concurrent", concurrent, len(members), f"trainings: {len(members)}")
    with progress("compare", len(members)) as reporter, run_for_workers(tracked) as remote:
        task = _TrainingTask(by_name, study, remote, reporter)
        results = tune.Tuner(
            # The workers of its training hold the CPUs, but Ray Tune requires some resource of a trial.
            tune.with_resources(tune.with_parameters(_train, task=task), {"memory": 1}),
            param_space={"member": tune.grid_search(list(by_name))},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent),
            run_config=tune.RunConfig(
                name="trainings",
                storage_path=str(storage),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                verbose=0,
            ),
        ).fit()
    if len(results) < len(members):
        raise KeyboardInterrupt  # Ray Tune swallows it
    return [f"{result.config['member']}: {reason_of(result.error)}" for result in results if result.error]


def _train(config: dict[str, Any], task: _TrainingTask) -> None:
    member = task.members[config["member"]]
    tracked = task.tracked.child(member.name)
    unregistered = TrackedRun(tracked.key, _UnregisteredSink(tracked.sink))
    start = time.monotonic()
    try:
        facts = train_model(member.settings, task.study, member.model, unregistered, threading.Event()).facts
    except BaseException:
        tracked.finish("FAILED")
        raise
    tracked.finish()
    seconds = time.monotonic() - start
    task.reporter.add.remote(1, f"{member.name}, {seconds:.0f} s")
    tune.report({"step": facts["step"], "seconds": seconds})


@dataclass(frozen=True)
class _UnregisteredSink:
    """A sink that keeps the models of a comparison out of the registry."""

    sink: Sink

    def put(self, record: LogRecord) -> None:
        """Forward a record."""
        if record.kind != "model":
            self.sink.put(record)

    def history(self, key: str, metric: str) -> list[tuple[int, float]]:
        """Empty: a training has no connection to MLflow."""
        return []
