"""Finding Ray."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from sadm_ray import cluster
from sadm_ray.cluster import _dead_cluster, ray_session
from sadm_ray.config import Settings
from sadm_ray.errors import ConfigError


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Ray writes the address of the last cluster of this machine."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_a_cluster_that_died_is_not_waited_for(named: Path) -> None:
    assert _dead_cluster() is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        named.write_text(address)
        assert _dead_cluster() is None, "it answers"
    assert _dead_cluster() == address
    named.write_text("nonsense")
    assert _dead_cluster() is None


def test_a_dead_cluster_that_is_named_is_an_error(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    named.write_text(address)
    settings = Settings.model_validate({"ray": {"address": "auto"}})
    with pytest.raises(ConfigError, match=rf"ray\.address: no Ray cluster answers at {address}"), ray_session(settings):
        pass


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A session of its own that starts nothing; what happens is put into the list."""
    import ray

    happened: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: happened.append("shutdown"))
    monkeypatch.setattr(cluster, "_connect", lambda settings: happened.append("connect"))
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: happened.append("sleep"))
    return happened


def nodes_of(monkeypatch: pytest.MonkeyPatch, polls: Iterable[int]) -> None:
    """`ray.nodes` with so many machines alive in each poll, the last number for ever, and one dead one."""
    import ray

    *first, last = polls
    alive = itertools.chain(first, itertools.repeat(last))
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * next(alive) + [{"Alive": False}])


def test_a_job_begins_when_all_machines_have_joined(
    joining: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes_of(monkeypatch, [1, 2, 2, 3])
    with ray_session(Settings.model_validate({"ray": {"nodes": 3}})):
        joining.append("work")
    assert joining == ["connect", *["sleep"] * 3, "work", "shutdown"]
    assert capsys.readouterr().err == "ray: 1/3 machines after 0 s\n", "printed at once, then now and then"


def test_machines_that_do_not_come_are_an_error_of_one_line(
    joining: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes_of(monkeypatch, [1, 2])
    clock = itertools.count(step=400)
    monkeypatch.setattr(cluster.time, "monotonic", lambda: float(next(clock)))
    says = r"^ray\.nodes: 3 machines were asked for, 2 came within 600 s; look at `ray status`"
    with (
        pytest.raises(ConfigError, match=says),
        ray_session(Settings.model_validate({"ray": {"nodes": 3}})),
    ):
        joining.append("work")
    assert joining == ["connect", "sleep", "shutdown"]


def test_nothing_is_waited_for_without_the_setting(joining: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_of(monkeypatch, [0])
    with ray_session(Settings()):
        joining.append("work")
    assert joining == ["connect", "work", "shutdown"]


def test_several_machines_are_not_waited_for_where_there_is_no_cluster(
    named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def no_cluster(**options: object) -> None:
        raise ConnectionError("none") if options["address"] == "auto" else AssertionError("a Ray was started")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", no_cluster)
    settings = Settings.model_validate({"ray": {"nodes": 2}})
    with pytest.raises(ConfigError, match=r"ray\.nodes: 2 machines .* no cluster was found"), ray_session(settings):
        pass


@pytest.mark.ray
def test_workers_of_a_ray_that_is_started_here_have_their_environment() -> None:
    code = """
import json, os
from sadm_ray.cluster import ray_session
from sadm_ray.config import Settings
with ray_session(Settings.model_validate({"ray": {"address": "local"}})):
    import ray
    alone = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
    print(json.dumps([alone, ray.get(ray.remote(lambda: dict(os.environ)).remote())]))
print(json.dumps(dict(os.environ)))
"""
    made = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, timeout=300)
    (alone, inside), after = map(json.loads, made.stdout.splitlines())
    assert {key: inside.get(key) for key in cluster.WORKER_ENVIRONMENT} == cluster.WORKER_ENVIRONMENT
    assert alone == "0", "nobody takes this machine away"
    assert not {"MALLOC_MMAP_THRESHOLD_", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"} & set(after), "as it was before"
