"""How commands end from outside: Ctrl-C, SIGTERM, a lost Ray; in one line, with its code, and nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sadm_ray.private_ray import _base, recorded_cluster
from tests import processes
from tests.processes import family, interrupt, kill, kill_everything, members, start, still_there

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

ENDS = {
    signal.SIGINT: (130, "interrupted; run the same command again to go on\n"),
    signal.SIGTERM: (143, "terminated; run the same command again to go on\n"),
}

RAYS_OWN = (1, "")
"""Where the raylet has ended, Ray's core ends the driver so as soon as it touches it, and may be faster than we are."""


@pytest.fixture(autouse=True)
def none_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a failed test leaves running is ended."""
    jobs: list[subprocess.Popen[bytes]] = []

    def remembered(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        jobs.append(processes.start(*arguments, **options))
        return jobs[-1]

    monkeypatch.setattr(sys.modules[__name__], "start", remembered)
    yield
    for job in jobs:
        if job.poll() is None:
            kill_everything(job)


def wait_until(condition: Callable[[], object], job: subprocess.Popen[bytes], log: Path) -> None:
    while not condition():
        assert job.poll() is None, log.read_text()
        time.sleep(0.05)


def waiting(log: Path, kind: str, *options: str, address: str | None = None) -> subprocess.Popen[bytes]:
    """A command that waits in Ray, with a Ray of its own."""
    job = start(kind, *options, log=log, module="tests.waiting_command", address=address)
    wait_until(lambda: "ready" in log.read_text(), job, log)
    if kind == "data":
        wait_until(lambda: members(job, "Map("), job, log)
    return job


def said(log: Path) -> str:
    """What a waiting command has printed after `ready`."""
    return log.read_text().partition("ready ")[2].partition("\n")[2]


def folders() -> set[Path]:
    return set(_base().glob("sadm-????????"))


def folders_of(job: subprocess.Popen[bytes]) -> set[Path]:
    """Of the Ray that `job` started: the last number in the name of a session of Ray is who started it."""
    return {folder for folder in folders() if any(folder.glob(f"session_*_{job.pid}"))}


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("number", list(ENDS))
@pytest.mark.parametrize("kind", ["get", "data"])
def test_a_signal_ends_a_command_that_waits_in_ray(
    tmp_path: Path, kind: str, number: signal.Signals, group: bool
) -> None:
    log, code, line = tmp_path / "log", *ENDS[number]
    there = folders()  # those of killed commands stay, and their numbers are given again
    job = waiting(log, kind)
    mine = folders_of(job) - there
    assert len(mine) == 1
    started = interrupt(job, number, group=group)
    ends = {(code, line), RAYS_OWN} if number == signal.SIGTERM and group else {(code, line)}
    end = (job.wait(), said(log))
    assert end in ends
    assert not still_there(started)
    assert end == RAYS_OWN or not mine & folders()


@pytest.mark.parametrize("number", list(ENDS))
def test_a_signal_ends_a_command_that_starts(tmp_path: Path, number: signal.Signals) -> None:
    """While Ray is being started, whose half must not be left."""
    log, (code, line) = tmp_path / "log", ENDS[number]
    job = start("get", log=log, module="tests.waiting_command", address=None)
    wait_until(lambda: members(job, "gcs_server"), job, log)
    started = interrupt(job, number, group=True)
    assert (job.wait(), log.read_text()) == (code, line)
    assert not still_there(started)


def test_a_second_signal_ends_a_command_that_closes(tmp_path: Path) -> None:
    log, (code, line) = tmp_path / "log", ENDS[signal.SIGINT]
    job = waiting(log, "get", "--hold=3600")
    started = interrupt(job, signal.SIGINT, group=True)
    time.sleep(2.0)
    assert job.poll() is None, "it takes its time to close"
    interrupt(job, signal.SIGINT, group=True)
    assert (job.wait(), said(log)) == (code, line)
    assert not still_there(started)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_that_imports(number: signal.Signals, code: int) -> None:
    program = "import os; from sadm_ray.interruption import take_signals; take_signals(); print(flush=True); "
    program += "import time; time.sleep(3600)"
    job = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout is not None
    job.stdout.readline()
    job.send_signal(number)
    _, err = job.communicate()
    assert (job.returncode, err) == (code, ENDS[number][1])


@pytest.mark.parametrize("kind", ["get", "data"])
@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_a_lost_ray_ends_the_command_in_a_line(tmp_path: Path, process: str, kind: str) -> None:
    log = tmp_path / "log"
    job = waiting(log, kind)
    started = family(job)
    (victim,) = (each for each in psutil.Process(job.pid).children() if each.name() == process)
    victim.kill()
    code = job.wait()
    assert not still_there(started)
    if process == "raylet" and code == RAYS_OWN[0]:
        return
    assert code == 4, log.read_text()
    # Ray's own listener may be faster, and prints of a dead raylet to stdout, which has the same log here.
    assert "Traceback" not in said(log)
    assert said(log).splitlines()[-1] == (
        f"error: Ray was lost: its {process} process has ended (killed, out of memory, or by `ray stop`); "
        "run the same command again to go on"
    )


def test_two_commands_at_once_have_a_ray_each(tmp_path: Path) -> None:
    logs = [tmp_path / "one", tmp_path / "other"]
    jobs = [start("get", log=log, module="tests.waiting_command", address=None) for log in logs]
    for job, log in zip(jobs, logs, strict=True):
        wait_until(lambda log=log: "ready" in log.read_text(), job, log)
    one, other = (log.read_text().split()[1] for log in logs)
    assert one != other
    interrupt(jobs[0], signal.SIGINT, group=True)
    assert jobs[0].wait() == 130
    time.sleep(5.0)
    assert jobs[1].poll() is None, "the other goes on"
    assert all(each.is_running() for each in family(jobs[1]))
    interrupt(jobs[1], signal.SIGINT, group=True)
    assert jobs[1].wait() == 130


def test_two_commands_join_a_cluster_that_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started as `ray start` does, in a folder of its own; ended by its processes, never by `ray stop`."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as base:  # short, for Ray's sockets
        monkeypatch.setenv("RAY_TMPDIR", base)
        command = "start --head --port=0 --num-cpus=4 --block --include-dashboard=false --disable-usage-stats"
        head = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), *command.split(), "--object-store-memory=200000000"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            while (address := recorded_cluster()) is None:
                assert head.poll() is None
                time.sleep(0.1)
            logs = [tmp_path / "one", tmp_path / "other"]
            jobs = [waiting(log, "get") for log in logs]
            assert [log.read_text().split()[1] for log in logs] == [address] * 2
            interrupt(jobs[0], signal.SIGTERM, group=True)
            assert (jobs[0].wait(), said(logs[0])) == (143, ENDS[signal.SIGTERM][1])
            assert jobs[1].poll() is None
            (raylet,) = (each for each in psutil.Process(head.pid).children() if each.name() == "raylet")
            raylet.kill()
            assert jobs[1].wait() == 4
            assert said(logs[1]).splitlines()[-1].startswith("error: Ray was lost: its raylet process has ended")
        finally:
            kill([*family(head), psutil.Process(head.pid)])
            head.wait()
