"""Watches the Ray that a command works with, and ends the command in one line when it is lost.

Without this a driver whose raylet was killed was seen to wait for ever, and one whose head was killed to end after a
minute without a word: Ray's core ends the process itself then.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import psutil

from sadm_ray.errors import RayLostError
from sadm_ray.interruption import (
    AGAIN,
    arrived,
    at_end,
    end_by_signal,
    end_with_last_words,
    is_command,
    is_interrupted,
)

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 2.0
"""How often the processes of a private Ray are listed."""
_SILENT_SECONDS = 50.0
"""How long a cluster's head may be away: it may come back, and after 60 s Ray's core ends the driver without a word."""
_ASK_SECONDS = 5.0
_HANDLER_SECONDS = 2.0
"""How long Ray's core may keep our handler of a signal waiting: it looks once a second."""


@contextlib.contextmanager
def watched(private: bool) -> Iterator[None]:
    """End the process, or outside of a command turn errors into `RayLostError`, when Ray is lost in the block.

    Args:
        private: whether Ray was started by this process, and not joined.
    """
    watch = _Watch(private)
    ended = threading.Event()
    if is_command():
        threading.Thread(target=watch.run, args=(ended,), name="ray-watch", daemon=True).start()
    try:
        with at_end(watch.kill_started):
            yield
    except Exception as error:
        for _ in range(20):  # an error that the loss has caused may be faster than its cause is seen
            if (reason := watch.lost()) is not None:
                if is_command():
                    _end(reason)
                raise RayLostError(_line(reason)) from error
            if not _may_be_ray(error):
                break
            time.sleep(_POLL_SECONDS)
        raise
    finally:
        ended.set()


def answers(address: str) -> bool:
    """Whether anything listens there: Ray would wait for a dead cluster for many minutes, silently."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ASK_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def kill_children() -> None:
    """End all that this process has started, the private Ray above all, and wait until it is gone."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=5.0)


class _Watch:
    def __init__(self, private: bool) -> None:
        import ray

        self._address = ray.get_runtime_context().gcs_address
        self._private = private
        self._heard = time.monotonic()
        self._asked = self._looked = 0.0
        self._started: set[psutil.Process] = set()
        if private:
            wanted = {"raylet", "gcs_server"}
            self._processes = [(name, each) for each in psutil.Process().children() if (name := each.name()) in wanted]
            self._look()
        else:
            node = f"--node_id={ray.get_runtime_context().get_node_id()}"
            raylets = (each for each in psutil.process_iter(["name", "cmdline"]) if each.info["name"] == "raylet")
            self._processes = [("raylet", each) for each in raylets if node in (each.info["cmdline"] or ())]

    def run(self, ended: threading.Event) -> None:
        """Look until the block has ended."""
        ends = _poll_of_ends([process for _, process in self._processes])
        while not ended.is_set():
            has_ended = bool(ends.poll(_POLL_SECONDS * 1000))
            if self._private and not has_ended and time.monotonic() - self._looked > _LOOK_SECONDS:
                self._look()
            reason = self.lost()
            if reason is not None and not ended.is_set():
                _end(reason)
                return

    def kill_started(self) -> None:
        """End the private Ray, also what a raylet that is dead has left behind: its agents stay for a while.

        Where the raylet has ended no process is looked for: there is no time, and its children are another's now.
        """
        if self._private and any(name == "raylet" and _is_there(process) for name, process in self._processes):
            self._look()
        for process in self._started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _look(self) -> None:
        children = psutil.Process().children(recursive=True)
        self._started, self._looked = {*children, *filter(_is_there, self._started)}, time.monotonic()

    def lost(self) -> str | None:
        """What has gone, if anything has."""
        for name, process in self._processes:
            if _is_gone(process):
                return f"its {name} process has ended (killed, out of memory, or by `ray stop`)"
        now = time.monotonic()
        if not self._private and now - self._asked > _ASK_SECONDS:
            if answers(self._address):
                self._heard = time.monotonic()
            self._asked = time.monotonic()
            if self._asked - self._heard > _SILENT_SECONDS:
                return f"the cluster at {self._address} has not answered for {_SILENT_SECONDS:.0f} s"
        return None


def _end(reason: str) -> None:
    """End the process for a lost Ray, or for the signal that has ended Ray too; returns where the main thread does."""
    number = arrived()
    if number is None:
        end_with_last_words(f"error: {_line(reason)}", RayLostError.exit_code)
    end = time.monotonic() + _HANDLER_SECONDS
    while not is_interrupted():
        if time.monotonic() > end or threading.current_thread() is threading.main_thread():
            end_by_signal(number)
        time.sleep(_POLL_SECONDS)


def _poll_of_ends(processes: Sequence[psutil.Process]) -> select.poll:
    """Its `poll` returns as soon as one of the processes has ended, where the system tells (Linux), or after its time.

    Ray's core may end this process soon after its raylet has ended, so there is no time to lose.
    """
    ends = select.poll()
    for process in processes:
        with contextlib.suppress(OSError, AttributeError):
            ends.register(os.pidfd_open(process.pid), select.POLLIN)
    return ends


def _is_there(process: psutil.Process) -> bool:
    return not _is_gone(process)


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _may_be_ray(error: BaseException) -> bool:
    """Whether Ray may have raised it, also as the cause of another error."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__module__.partition(".")[0] == "ray":
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _line(reason: str) -> str:
    return f"Ray was lost: {reason}; {AGAIN}"
