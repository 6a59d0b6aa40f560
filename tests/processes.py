"""Commands of ours as real processes, and their sudden ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil


def start(
    *arguments: str, log: Path | None = None, module: str = "sadm_ray", address: str | None = "local"
) -> subprocess.Popen[bytes]:
    """`sadm-ray …` in a process group of its own, as in a terminal of its own; its output is appended to `log`.

    Args:
        module: what is run in place of `sadm_ray`.
        address: RAY_ADDRESS; none: not set.
    """
    out = log.open("ab") if log else subprocess.DEVNULL
    environment = {**os.environ, "RAY_ADDRESS": address or ""}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, stdout=out, stderr=out, env=environment, process_group=0)


def interrupt(job: subprocess.Popen[bytes], number: signal.Signals, *, group: bool) -> list[psutil.Process]:
    """Send a signal to the driver, or to its process group as a terminal does; returns what it had started."""
    processes = family(job)
    if group:
        os.killpg(job.pid, number)
    else:
        job.send_signal(number)
    return processes


def still_there(processes: list[psutil.Process], seconds: float = 30.0) -> list[str]:
    """Which of the processes do not end within so many seconds. Those that nobody has reaped have ended."""
    end = time.monotonic() + seconds
    while (alive := [each for each in processes if not _has_ended(each)]) and time.monotonic() < end:
        time.sleep(0.1)
    return [f"{process.pid} {process.name()}" for process in alive]


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def family(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """All processes that a command has started, Ray's own among them."""
    try:
        return psutil.Process(job.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def members(job: subprocess.Popen[bytes], text: str) -> list[psutil.Process]:
    """Those of its family whose command line, which Ray sets to what they do, holds the text."""
    found = []
    for process in family(job):
        with contextlib.suppress(psutil.NoSuchProcess):
            if text in " ".join(process.cmdline()):
                found.append(process)
    return found


def workers(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of its training workers."""
    return members(job, "RayTrainWorker")


def kill_everything(job: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the driver, Ray's own processes and all workers, as when a machine loses its power."""
    processes = family(job)
    job.send_signal(signal.SIGKILL)
    kill(processes)
    job.wait()


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
