"""The driver's end: one outbox and one sender for each run folder and store."""

from __future__ import annotations

import logging
import os
import sys
import threading
from dataclasses import dataclass

from sadm_ray.tracking.client import first_line, shown
from sadm_ray.tracking.outbox import Outbox
from sadm_ray.tracking.record import Place, Record
from sadm_ray.tracking.sender import Sender
from sadm_ray.tracking.store import Store

log = logging.getLogger(__name__)


class Desk:
    """An outbox, its sender and the store."""

    def __init__(self, place: Place) -> None:
        self.outbox, self.store = Outbox(place), Store(place)
        self.sender = Sender(self.outbox, self.store, place.uri)
        self.sender.start()

    def close(self) -> None:
        """Stop sending, and let go of the files."""
        self.sender.close()
        self.outbox.close()


_desks: dict[tuple[int, Place], Desk] = {}
_opening = threading.Lock()


def desk_of(place: Place) -> Desk:
    """The one of this process. It is kept, so that what the end of a step left unsent is tried on in the next."""
    with _opening:
        key = (os.getpid(), place)  # a forked process has no sender
        if key not in _desks:
            _desks[key] = Desk(place)
        return _desks[key]


def close_desks() -> None:
    """Close all, as the end of the process does."""
    with _opening:
        while _desks:
            _desks.popitem()[1].close()


@dataclass(frozen=True)
class Driver:
    """Where a driver's runs put their records.

    A plain value: a driver that restores a sweep from its file goes on with it. In a Ray worker it takes nothing, see
    `TrackedRun.for_workers`.
    """

    place: Place

    def put(self, record: Record) -> None:
        """Keep it for sending."""
        if not _only_for_drivers():
            desk_of(self.place).outbox.put(record)

    def history(self, key: str, metric: str) -> list[tuple[int, float]]:
        """The curve of a metric, with what waits sent before; empty when MLflow is out of reach."""
        if _only_for_drivers():
            return []
        desk = desk_of(self.place)
        self.flush()
        if desk.sender.away or not desk.store.has_run(key):
            return []
        try:
            return desk.store.history(key, metric)
        except Exception as error:  # whatever the store's driver raises
            log.warning("MLflow at %s cannot be read (%s)", shown(self.place.uri), shown(first_line(error)))
            return []

    def knows(self, key: str) -> bool:
        """Whether that run was made in MLflow, or waits to be made."""
        desk = desk_of(self.place)
        return desk.store.has_run(key) or any(each.record.key == key for each in desk.outbox.waiting())

    def flush(self) -> int:
        """Wait for the sending, as long as something gets through; how many records are left."""
        return desk_of(self.place).sender.flush()


def _only_for_drivers() -> bool:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return False
    if not _told:
        _told.append(True)
        log.warning("a worker records to the run of its driver, which is lost; give it that of `for_workers`")
    return True


_told: list[bool] = []
