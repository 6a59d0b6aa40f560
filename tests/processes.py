"""Commands of ours as real processes, and their sudden ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil


def start(*arguments: str, log: Path | None = None) -> subprocess.Popen[bytes]:
    """`sadm-ray …` with a Ray of its own; its output is appended to `log`."""
    out = log.open("ab") if log else subprocess.DEVNULL
    command = [sys.executable, "-m", "sadm_ray", *arguments]
    return subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "RAY_ADDRESS": "local"})


def family(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """All processes that a command has started, Ray's own among them."""
    try:
        return psutil.Process(job.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of its training workers."""
    found = []
    for process in family(job):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


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
