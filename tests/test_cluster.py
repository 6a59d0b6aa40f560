"""Finding Ray."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from sadm_ray import cluster
from sadm_ray.cluster import _cluster_to_join, _start, ray_session, warn_of_idle
from sadm_ray.config import Settings
from sadm_ray.errors import ConfigError, RayLostError


@pytest.fixture
def listening() -> Iterator[str]:
    """An address where something listens, and what would be a dead cluster once the test has closed it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """What would be joined with this `ray.address` where `ray start` began `started` and recorded `recorded`."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def joined(address: str | None = None, started: str | None = None, recorded: str | None = None) -> str | None:
        monkeypatch.setattr(cluster, "started_cluster", lambda: started)
        monkeypatch.setattr(cluster, "recorded_cluster", lambda: recorded)
        return _cluster_to_join(Settings.model_validate({"ray": {"address": address}}))

    return joined


def test_a_named_cluster_is_joined(joined: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    assert joined("10.0.0.1:6379", started="10.0.0.2:6379") == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.3:6379")
    assert joined(started="10.0.0.2:6379") == "10.0.0.3:6379"
    assert joined("local", started="10.0.0.2:6379") is None


def test_a_started_cluster_is_joined_unless_it_is_dead(joined: Callable[..., str | None], listening: str) -> None:
    assert joined(started=listening) == listening
    assert joined("auto", started=listening) == listening
    assert joined() is None, "a Ray of its own"
    assert joined(recorded="127.0.0.1:1") is None, "the last one is dead, and is not waited for"
    assert joined(started="127.0.0.1:1") is None, "its raylet is there, its head is not"


def test_a_cluster_that_is_wanted_and_not_there_is_an_error(joined: Callable[..., str | None]) -> None:
    with pytest.raises(ConfigError, match=r"ray\.address: no Ray cluster answers at 10.0.0.1:6379, the last one"):
        joined("auto", recorded="10.0.0.1:6379")
    with pytest.raises(ConfigError, match=r"ray\.address: no Ray cluster answers here; begin one with `ray start"):
        joined("auto")


def test_a_ray_that_does_not_start_is_tried_again_then_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    tried: list[object] = []

    def fails(**options: object) -> None:
        tried.append(options["_temp_dir"])
        raise Exception("The current node timed out during startup.\nmore")  # noqa: TRY002  (as Ray does)

    monkeypatch.setattr(ray, "init", fails)
    monkeypatch.setattr(cluster, "kill_children", lambda: tried.append("killed"))
    with pytest.raises(RayLostError, match=r"^Ray could not be started in 5 attempts \(The current node timed out"):
        _start(Settings(), tmp_path)
    assert tried == [str(tmp_path), "killed"] * 5


def test_what_stays_idle_is_said(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_idle("generate.actors", 3, 3, "batches: 3")
    assert not caplog.messages
    warn_of_idle("generate.actors", 3, 1, "batches: 1")
    (line,) = caplog.messages
    assert line == "generate.actors: 3 asked for, and there is work for 1 (batches: 1); the others stay idle"


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A session of its own that starts nothing; what happens is put into the list."""
    import ray

    happened: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: happened.append("shutdown"))
    monkeypatch.setattr(cluster, "_cluster_to_join", lambda settings: "10.0.0.1:6379")
    monkeypatch.setattr(cluster, "_join", lambda address: happened.append("connect"))
    monkeypatch.setattr(cluster, "watched", lambda private: contextlib.nullcontext())
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


def test_several_machines_are_not_waited_for_where_there_is_no_cluster(joined: Callable[..., str | None]) -> None:
    joined()
    with pytest.raises(ConfigError, match=r"ray\.nodes: 2 machines .* no cluster was found"):
        _cluster_to_join(Settings.model_validate({"ray": {"nodes": 2}}))


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
    ours = {*cluster.WORKER_ENVIRONMENT, *cluster.PRIVATE} - {"OMP_NUM_THREADS"}
    bare = {key: value for key, value in os.environ.items() if key not in ours}  # a Ray of these tests may be open
    made = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, timeout=300, env=bare)
    (alone, inside), after = map(json.loads, made.stdout.splitlines())
    assert {key: inside.get(key) for key in cluster.WORKER_ENVIRONMENT} == cluster.WORKER_ENVIRONMENT
    assert alone == "0", "nobody takes this machine away"
    assert {key: inside.get(key) for key in cluster.PRIVATE} == cluster.PRIVATE, "also of trials, which train too"
    assert not {"MALLOC_MMAP_THRESHOLD_", *cluster.PRIVATE} & set(after), "as it was before"
