"""Tracking in MLflow that never stops the work.

A run of the pipeline is a parent run in MLflow, each of its steps a child, each trial of a sweep a child of that. What
is recorded goes to a journal in the run's folder first; a thread of the driver sends it on, and goes on trying for as
long as MLflow is out of reach. What a killed process has not sent, the next step of the same run sends. Workers on
other machines hand their records to the driver (`run_for_workers`). Every MLflow call of the project is here.
"""

from sadm_ray.tracking.step_runs import step_history, tracked_step, tracking_uri
from sadm_ray.tracking.tracked_run import TrackedRun
from sadm_ray.tracking.worker_mailbox import run_for_workers

__all__ = ["TrackedRun", "run_for_workers", "step_history", "tracked_step", "tracking_uri"]
