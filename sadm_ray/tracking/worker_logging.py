"""How Ray workers record: a small actor takes what they send, a thread of the driver empties it."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sadm_ray.cluster import actor_beside_driver
from sadm_ray.tracking.log_record import LogRecord, Sink
from sadm_ray.tracking.tracked_run import TrackedRun

log = logging.getLogger(__name__)
DRAIN_SECONDS = 0.5
ANSWER_SECONDS = 10.0


class Mailbox:
    """Keeps the records it has handed out until the driver confirms them: a lost answer loses no record."""

    def __init__(self) -> None:
        self._new: list[LogRecord] = []
        self._handed_out: list[LogRecord] = []
        self._turn = ""

    def put(self, record: LogRecord) -> None:
        self._new.append(record)

    def take(self, taken: str) -> tuple[str, list[LogRecord]]:
        """The next records under a new name; `taken` is the name of the last that arrived."""
        if taken == self._turn:
            self._handed_out, self._new, self._turn = self._new, [], uuid.uuid4().hex
        return self._turn, self._handed_out


@dataclass(frozen=True)
class MailboxSink:
    """Where a worker's runs put their records."""

    mailbox: Any

    def put(self, record: LogRecord) -> None:
        """Send it off, without waiting. A file goes with its bytes: the driver may not see the worker's disk."""
        import ray

        try:
            for each in _carried(record):
                self.mailbox.put.remote(each)
        except (OSError, ray.exceptions.RayError) as error:
            if not _warned:
                _warned.append(True)
                log.warning("a record for MLflow is lost (%s)", error)

    def history(self, key: str, metric: str) -> list[tuple[int, float]]:
        """Nothing: a worker does not talk to MLflow."""
        return []


_warned: list[bool] = []


@contextmanager
def run_for_workers(run: TrackedRun, mailbox: Any = None) -> Iterator[TrackedRun]:
    """The same run for Ray workers on any machine, for the time of the block; Ray has to be running.

    Args:
        mailbox: an actor that is a `Mailbox` among other things, and outlives the block; none: one of its own.
    """
    import ray

    if isinstance(run.sink, MailboxSink):
        yield run
        return
    taken_by = mailbox or actor_beside_driver(Mailbox, max_restarts=3)
    stop = threading.Event()
    delivery = threading.Thread(target=_deliver, args=(taken_by, run.sink, stop), name="mlflow-mailbox", daemon=True)
    delivery.start()
    try:
        yield TrackedRun(run.key, MailboxSink(taken_by))
    finally:
        stop.set()
        delivery.join()
        if mailbox is None and ray.is_initialized():
            ray.kill(taken_by)


def _deliver(mailbox: Any, sink: Sink, stop: threading.Event) -> None:
    import ray

    taken, warned, last = "", False, False
    while not last:
        last = stop.wait(DRAIN_SECONDS)
        if not ray.is_initialized():  # shut down in the block; `ray.get` would start another
            return
        try:
            # The first call repeats the last one, if its answer was lost; the second takes what came since.
            for _ in range(2 if last else 1):
                turn, records = ray.get(mailbox.take.remote(taken), timeout=ANSWER_SECONDS)
                if turn != taken:
                    for record in records:
                        sink.put(record)
                taken = turn
        except ray.exceptions.RayError as error:
            if not warned:
                warned = True
                log.warning("what workers record cannot be fetched (%s); the work goes on", str(error).splitlines()[0])


def _carried(record: LogRecord) -> Iterator[LogRecord]:
    if record.kind == "model":
        raise OSError("a model is registered by the driver")
    if record.kind != "artifact":
        yield record
        return
    path, folder = Path(record.body["path"]), record.body["folder"]
    if path.is_dir():
        files = [(file, file.relative_to(path).as_posix()) for file in sorted(path.rglob("*")) if file.is_file()]
        folder = folder or path.name
    else:
        files = [(path, path.name)]
    for file, name in files:
        yield replace(record, kind="content", body={"name": name, "folder": folder}, data=file.read_bytes())
