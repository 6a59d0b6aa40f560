"""Tracking in MLflow that never stops the work. Every MLflow call of the project is here.

MLflow's own asynchronous logging does not do this (looked at in 3.17.2): its queue is in memory only, so a killed
process loses it, and a batch that fails once (server away for minutes, disk full) is dropped while the run may still
end as FINISHED. It covers metrics, params and tags; making a run, its status, datasets, files and models block and
raise. Ten threads send in no order, and ending one run shuts the queue that others of the process share. A journal
beside it would have to note what arrived, retry, order and send all else, which is what this package does.

A run of the pipeline is a parent run in MLflow, each of its steps a child, each trial of a sweep a child of that. What
is recorded goes to a journal in the run's folder first; a thread of the driver sends it on by MLflow's synchronous
client, and retries for as long as MLflow is out of reach. What a killed process has not sent, the next step of the same
run sends. Workers on other machines hand their records to the driver (`run_for_workers`).
"""

from sadm_ray.tracking.step_runs import begin_anew, step_history, tracked_step, tracking_uri
from sadm_ray.tracking.tracked_run import TrackedRun
from sadm_ray.tracking.worker_logging import run_for_workers

__all__ = ["TrackedRun", "begin_anew", "run_for_workers", "step_history", "tracked_step", "tracking_uri"]
