"""A real MLflow server that is killed and comes back."""

import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sadm_ray.tracking import tracked_step
from tests.tracking.conftest import MakeSettings

pytestmark = pytest.mark.slow
STEPS = 300


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path, store: str) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """Its address, and what starts and kills it."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", store, "--artifacts-destination", str(tmp_path / "kept"), "--workers", "1"]
        with (tmp_path / "server.log").open("ab") as lines:
            running.append(subprocess.Popen(command, cwd=tmp_path, stdout=lines, stderr=lines, start_new_session=True))
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()  # noqa: S310
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise AssertionError((tmp_path / "server.log").read_text())

    def kill() -> None:
        while running:
            process = running.pop()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    yield uri, start, kill
    kill()


def test_a_killed_server_is_caught_up(
    server: tuple[str, Callable[[], None], Callable[[], None]],
    make_settings: MakeSettings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from mlflow import MlflowClient

    uri, start, kill = server
    settings = make_settings(uri=uri)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    slowest = 0.0

    def timed(call: Callable[..., Any], *values: Any) -> None:
        nonlocal slowest
        begun = time.monotonic()
        call(*values)
        slowest = max(slowest, time.monotonic() - begun)

    start()
    with tracked_step(settings, "train") as tracked:
        for step in range(STEPS):
            if step == STEPS // 3:
                kill()
            timed(tracked.metrics, {"loss": float(step)}, step)
            time.sleep(0.01)
        timed(tracked.params, {"late": 1})
        timed(tracked.metrics, {"bad": math.nan, "up": math.inf})
        timed(tracked.content, "note.txt", b"hello", "notes")
        timed(tracked.dataset, "d", "1", "file", {})
        timed(tracked.register, tmp_path / "model", tmp_path.name, {"digest": "1"})
        start()
    assert slowest < 10.0
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(settings.tracking.experiment)
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"tiny", "tiny/train"}
    run = found["tiny/train"]
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((row.step, row.value) for row in history) == [(step, float(step)) for step in range(STEPS)]
    assert run.data.params == {"late": "1"}
    assert math.isnan(run.data.metrics["bad"])
    assert [file.path for file in client.list_artifacts(run.info.run_id, "notes")] == ["notes/note.txt"]
    assert len(run.inputs.dataset_inputs) == 1
    (version,) = client.search_model_versions(f"name = '{tmp_path.name}'")
    assert version.source == f"{run.info.artifact_uri}/model"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(f"MLflow at {uri} cannot be reached (")
