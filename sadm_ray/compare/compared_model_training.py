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
from sadm_ray.errors import UserError, reason_of
from sadm_ray.progress import ProgressCounter, progress
from sadm_ray.tracking import TrackedRun, run_for_workers
from sadm_ray.train.trainer import is_trained, train_model

RETRIES = 1
"""How often a failed training is repeated, beside the restarts of Ray Train itself."""


@dataclass(frozen=True)
class _TrainingTask:
    """What the trainings have in common."""

    members: Mapping[str, Member]
    study: Study
    tracked: TrackedRun


def train_members(
    members: Sequence[Member], study: Study, out: Path, concurrent: int, tracked: TrackedRun
) -> list[str]:
    """Train all members; unfinished trainings are resumed, finished ones are kept, for which no process is started.

    Every member becomes a child run of `tracked`.

    Returns:
        a line for each member that failed.
    """
    failures, left = [], []
    for member in members:
        if not _is_done(member):
            left.append(member)
            continue
        try:
            _train_member(member, study, tracked)
        except Exception as error:
            failures.append(f"{member.name}: {reason_of(error)}")
    return [*failures, *(_train_in_parallel(left, study, out, concurrent, tracked) if left else ())]


def _is_done(member: Member) -> bool:
    try:
        return is_trained(member.settings)
    except (OSError, UserError):
        return False  # its training will say what is wrong


def _train_in_parallel(
    members: Sequence[Member], study: Study, out: Path, concurrent: int, tracked: TrackedRun
) -> list[str]:
    by_name = {member.name: member for member in members}
    storage = out.absolute() / "ray"
    shutil.rmtree(storage, ignore_errors=True)  # of a comparison that was killed; trainings have their own checkpoints
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are listed at the end, a line each
    warn_of_idle("compare.concurrent", concurrent, len(members), f"trainings: {len(members)}")
    with progress("compare", len(members)) as counter, run_for_workers(tracked) as remote:
        task = _TrainingTask(by_name, study, remote)
        results = tune.Tuner(
            # The workers of its training hold the CPUs, but Ray Tune requires some resource of a trial.
            tune.with_resources(tune.with_parameters(_train, task=task), {"memory": 1}),
            param_space={"member": tune.grid_search(list(by_name))},
            # A process that imports for seconds serves one training after another.
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
            run_config=tune.RunConfig(
                name="trainings",
                storage_path=str(storage),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[_TrainedCallback(counter)],
                verbose=0,
            ),
        ).fit()
    if len(results) < len(members):
        raise KeyboardInterrupt  # Ray Tune swallows it
    return [f"{result.config['member']}: {reason_of(result.error)}" for result in results if result.error]


def _train(config: dict[str, Any], task: _TrainingTask) -> None:
    start = time.monotonic()
    step = _train_member(task.members[config["member"]], task.study, task.tracked)
    tune.report({"step": step, "seconds": time.monotonic() - start})


def _train_member(member: Member, study: Study, tracked: TrackedRun) -> int:
    """Returns the step that it has reached."""
    child = tracked.child(member.name)
    try:
        facts = train_model(member.settings, study, member.model, child.unregistered, threading.Event()).facts
    except BaseException:
        child.finish("FAILED")
        raise
    child.finish()
    return int(facts["step"])


class _TrainedCallback(tune.Callback):
    """Counts the members that are trained, in the driver."""

    def __init__(self, counter: ProgressCounter) -> None:
        self._counter = counter

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._counter.add(1, f"{trial.config['member']}, {trial.last_result['seconds']:.0f} s")
