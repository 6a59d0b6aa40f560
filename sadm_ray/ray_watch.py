"""Watches the Ray that a command works with, and ends the command in one line when it is lost.

Without this a driver whose raylet was killed was seen to wait for ever, and one whose head was killed to end after a
minute without a word: Ray's core ends the process itself then.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import psutil

from sadm_ray.errors import RayLostError
from sadm_ray.interruption import AGAIN, at_end, end_with_last_words, is_command, is_interrupted

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 2.0
"""How often the processes of a private Ray are listed."""
_SILENT_SECONDS = 50.0
"""How long a cluster's head may be away: it may come back, and after 60 s Ray's core ends the driver without a word."""
_ASK_SECONDS = 5.0


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
                    end_with_last_words(f"error: {_line(reason)}", RayLostError.exit_code)
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


def kill_children(others: Sequence[psutil.Process] = ()) -> None:
    """End all that this process has started, the private Ray above all, and wait until it is gone."""
    children = {*psutil.Process().children(recursive=True), *others}
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
        self._started: list[psutil.Process] = []
        if private:
            wanted = {"raylet", "gcs_server"}
            self._processes = [(name, each) for each in psutil.Process().children() if (name := each.name()) in wanted]
        else:
            node = f"--node_id={ray.get_runtime_context().get_node_id()}"
            raylets = (each for each in psutil.process_iter(["name", "cmdline"]) if each.info["name"] == "raylet")
            self._processes = [("raylet", each) for each in raylets if node in (each.info["cmdline"] or ())]

    def run(self, ended: threading.Event) -> None:
        """Look until the block has ended."""
        while not ended.wait(_POLL_SECONDS):
            if self._private and time.monotonic() - self._looked > _LOOK_SECONDS:
                children = psutil.Process().children(recursive=True)
                self._started, self._looked = [*children, *filter(_is_there, self._started)], time.monotonic()
            reason = self.lost()
            if reason is not None and not ended.is_set() and not is_interrupted():
                end_with_last_words(f"error: {_line(reason)}", RayLostError.exit_code)

    def kill_started(self) -> None:
        """End the private Ray, also what a raylet that is dead has left behind: its agents stay for a while."""
        if self._private:
            kill_children(self._started)

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
