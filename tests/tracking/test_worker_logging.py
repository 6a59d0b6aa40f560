"""Records of Ray workers."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sadm_ray.config import Settings
from sadm_ray.tracking import TrackedRun, run_for_workers, tracked_step

pytestmark = pytest.mark.ray
Runs = Callable[[], dict[str, Any]]


def work(tracked: TrackedRun, worker: int, folder: Path | None = None) -> None:
    tracked.params({f"worker_{worker}": worker})
    for step in range(100):
        tracked.metrics({f"loss_{worker}": float(step)}, step)
    tracked.content(f"{worker}.txt", b"bytes", "notes")
    if folder is not None:
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "b.txt").write_text("b")
        tracked.artifact(folder, "files")
        tracked.artifact(folder / "nowhere")
    tracked.child(f"child-{worker}").metrics({"psnr": 1.0})


def test_workers_record_through_the_driver(
    settings: Settings, runs: Runs, client: Any, ray_local: None, tmp_path: Path
) -> None:
    import ray

    task = ray.remote(num_cpus=1)(work)
    with tracked_step(settings, "train") as tracked:
        tracked.metrics({"driver": 1.0})
        with run_for_workers(tracked) as remote:
            remote = pickle.loads(pickle.dumps(remote))  # noqa: S301
            ray.get([task.remote(remote, 0), task.remote(remote, 1, tmp_path / "out")])
        assert [step for step, _ in tracked.history("loss_1")] == list(range(100))
    run = runs()["tiny/train"]
    assert run.data.params == {"worker_0": "0", "worker_1": "1"}
    assert run.data.metrics["driver"] == 1.0
    assert len(client.get_metric_history(run.info.run_id, "loss_0")) == 100
    assert [file.path for file in client.list_artifacts(run.info.run_id, "notes")] == ["notes/0.txt", "notes/1.txt"]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "files/a")] == ["files/a/b.txt"]
    for child in ("child-0", "child-1"):
        assert runs()[child].data.tags["mlflow.parentRunId"] == run.info.run_id


def test_a_lost_mailbox_stops_no_work(
    settings: Settings, runs: Runs, ray_local: None, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    task = ray.remote(num_cpus=1)(work)
    with tracked_step(settings, "train") as tracked:
        with run_for_workers(tracked) as remote:
            ray.get(task.remote(remote, 0))
            ray.kill(remote.sink.mailbox)
            ray.get(task.remote(remote, 1))
        tracked.metrics({"driver": 1.0})
    assert runs()["tiny/train"].data.metrics["driver"] == 1.0
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("what workers record cannot be fetched (")


def test_a_drivers_run_in_a_worker_takes_nothing(settings: Settings, runs: Runs, ray_local: None) -> None:
    import ray

    task = ray.remote(num_cpus=1)(work)
    with tracked_step(settings, "train") as tracked:
        again = pickle.loads(pickle.dumps(tracked))  # noqa: S301
        assert again == tracked
        again.metrics({"driver": 1.0})
        ray.get(task.remote(tracked, 0))
    assert set(runs()["tiny/train"].data.metrics) == {"driver"}
