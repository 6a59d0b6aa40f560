"""The trainings of a comparison: Ray Tune runs them side by side, each on Ray Train."""

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

from sadm_ray.compare.members import Member
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import reason_of
from sadm_ray.progress import Reporter, progress
from sadm_ray.tracking import TrackedRun, run_for_workers
from sadm_ray.tracking.log_record import LogRecord, Sink
from sadm_ray.train.trainer import train_model

RETRIES = 1
"""How often a training that failed is begun again; what Ray Train mends by itself is no failure."""


@dataclass(frozen=True)
class _Trainings:
    """What every training is given."""

    members: Mapping[str, Member]
    study: Study
    tracked: TrackedRun
    reporter: Reporter


def train_members(
    members: Sequence[Member], study: Study, out: Path, concurrent: int, tracked: TrackedRun
) -> list[str]:
    """Train all of them; one that was begun goes on where it was, one that is done is left as it is.

    Every member becomes a child of `tracked`.

    Returns:
        a line for each that failed.
    """
    by_name = {member.name: member for member in members}
    storage = out.absolute() / "ray"
    shutil.rmtree(storage, ignore_errors=True)  # of a comparison that was killed; trainings have their own checkpoints
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is listed in the end, in a line each
    with progress("compare", len(members)) as reporter, run_for_workers(tracked) as remote:
        work = _Trainings(by_name, study, remote, reporter)
        results = tune.Tuner(
            # The workers of its training hold the CPUs; it may not ask for nothing at all.
            tune.with_resources(tune.with_parameters(_train, work=work), {"memory": 1}),
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
        raise KeyboardInterrupt  # which Ray Tune keeps to itself
    return [f"{result.config['member']}: {reason_of(result.error)}" for result in results if result.error]


def _train(config: dict[str, Any], work: _Trainings) -> None:
    member = work.members[config["member"]]
    tracked = work.tracked.child(member.name)
    quiet = TrackedRun(tracked.key, _Unregistered(tracked.sink))
    begun = time.monotonic()
    try:
        facts = train_model(member.settings, work.study, member.model, quiet, threading.Event()).facts
    except BaseException:
        tracked.finish("FAILED")
        raise
    tracked.finish()
    seconds = time.monotonic() - begun
    work.reporter.add.remote(1, f"{member.name}, {seconds:.0f} s")
    tune.report({"step": facts["step"], "seconds": seconds})


@dataclass(frozen=True)
class _Unregistered:
    """A sink that keeps models out of the registry: those of a comparison are not for use."""

    sink: Sink

    def put(self, record: LogRecord) -> None:
        """Take in a record."""
        if record.kind != "model":
            self.sink.put(record)

    def history(self, key: str, metric: str) -> list[tuple[int, float]]:
        """Nothing: a training does not talk to MLflow."""
        return []
