"""The driver's end: one outbox and one sender for each run folder and store."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from dataclasses import dataclass

from sadm_ray.tracking.log_record import LogRecord, TrackingStore
from sadm_ray.tracking.mlflow_client import first_line, shown
from sadm_ray.tracking.mlflow_store import MlflowStore
from sadm_ray.tracking.outbox import Outbox
from sadm_ray.tracking.sender_thread import Sender

log = logging.getLogger(__name__)


class Outgoing:
    """An outbox, its sender and the store."""

    def __init__(self, place: TrackingStore) -> None:
        self.outbox, self.store = Outbox(place), MlflowStore(place)
        self.sender = Sender(self.outbox, self.store, place.uri)
        self.sender.start()

    def close(self) -> None:
        """Stop sending, and let go of the files."""
        self.sender.close()
        self.outbox.close()


_outgoing: dict[tuple[int, TrackingStore], Outgoing] = {}
_opening = threading.Lock()


def outgoing_of(place: TrackingStore) -> Outgoing:
    """The one of this process, kept from step to step: the next step goes on sending what one left unsent."""
    with _opening:
        key = (os.getpid(), place)  # a forked process has no sender
        if key not in _outgoing:
            _outgoing[key] = Outgoing(place)
        return _outgoing[key]


def close_all() -> None:
    """Close all, as the end of the process does."""
    with _opening:
        while _outgoing:
            _outgoing.popitem()[1].close()


@dataclass(frozen=True)
class DriverSink:
    """Where a driver's runs put their records.

    A plain value: a driver that restores a sweep from its file goes on with it. In a Ray worker it takes nothing, see
    `run_for_workers`.
    """

    place: TrackingStore

    def put(self, record: LogRecord) -> None:
        """Keep it for sending."""
        if not _only_for_drivers():
            outgoing_of(self.place).outbox.put(record)

    def history(self, key: str, metric: str) -> list[tuple[int, float]]:
        """The curve of a metric, with what waits sent before; empty when MLflow is out of reach."""
        if _only_for_drivers():
            return []
        outgoing = outgoing_of(self.place)
        self.flush()
        if outgoing.sender.away or not outgoing.store.has_run(key):
            return []
        try:
            return outgoing.store.history(key, metric)
        except Exception as error:  # whatever the store's driver raises
            log.warning("MLflow at %s cannot be read (%s)", shown(self.place.uri), shown(first_line(error)))
            return []

    def knows(self, key: str) -> bool:
        """Whether that run was made in MLflow, or waits to be made."""
        outgoing = outgoing_of(self.place)
        return outgoing.store.has_run(key) or any(each.record.key == key for each in outgoing.outbox.waiting())

    def flush(self, at_most: float = math.inf) -> int:
        """Wait for the sending, as long as something gets through, `at_most` so many s; how many records are left."""
        return outgoing_of(self.place).sender.flush(at_most)


def _only_for_drivers() -> bool:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return False
    if not _warned:
        _warned.append(True)
        log.warning("a worker records to the run of its driver, which is lost; give it that of `run_for_workers`")
    return True


_warned: list[bool] = []
