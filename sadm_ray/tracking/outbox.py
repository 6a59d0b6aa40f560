"""The outbox of a driver: records wait here until MLflow has them."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sadm_ray.storage import leads_out
from sadm_ray.tracking.journal import Journal
from sadm_ray.tracking.log_record import LogRecord, TrackingStore
from sadm_ray.tracking.mlflow_client import GoneError

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Waiting:
    """A record that MLflow does not have yet, and where it is kept (nowhere, if the disk is full)."""

    record: LogRecord
    journal: Journal | None
    number: int

    def content(self) -> bytes:
        """The bytes of a content.

        Raises:
            GoneError: their file was removed.
        """
        if self.journal is None:
            return self.record.data or b""
        try:
            return self.journal.content(self.number)
        except FileNotFoundError as error:
            raise GoneError(f"{error.filename} is no longer there") from error


def outbox_folder(place: TrackingStore) -> Path:
    """Where the journals of a place are; another store has another folder."""
    return place.folder / "tracking" / hashlib.sha256(place.uri.encode()).hexdigest()[:8]


class Outbox:
    """Records in the order in which they came, those of earlier processes of this run first."""

    def __init__(self, place: TrackingStore) -> None:
        self.folder = outbox_folder(place)
        self.changed = threading.Condition()
        self._journal: Journal | None = None
        self._unkept = False
        self._waiting: dict[Waiting, None] = {}
        self._left: dict[Journal, int] = {}
        try:
            for journal, found in Journal.left(self.folder):
                records = [(number, record) for number, record in found if _is_of_run(record, place.folder)]
                if len(records) < len(found):
                    log.warning("%s: records of files outside of %s are not sent", self.folder, place.folder)
                    journal.sent({number for number, _ in found} - {number for number, _ in records})
                self._left[journal] = len(records)
                self._waiting |= {Waiting(record, journal, number): None for number, record in records}
                self._clear(journal)
        except OSError as error:
            log.warning("%s: what is left there cannot be read (%s)", self.folder, error)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, record: LogRecord) -> None:
        """Keep a record, on the disk of the driver."""
        with self.changed:
            self._waiting[self._keep(record)] = None
            self.changed.notify_all()

    def waiting(self) -> list[Waiting]:
        """All that was not sent, in order."""
        with self.changed:
            return list(self._waiting)

    def done(self, sent: Iterable[Waiting]) -> None:
        """Forget records that MLflow has, or will never take."""
        with self.changed:
            by_journal: dict[Journal, list[int]] = {}
            for each in sent:
                self._waiting.pop(each, None)
                if each.journal is not None:
                    by_journal.setdefault(each.journal, []).append(each.number)
            try:
                for journal, numbers in by_journal.items():
                    journal.sent(numbers)
                    if journal in self._left:
                        self._left[journal] -= len(numbers)
                        self._clear(journal)
                if not self._waiting and self._journal is not None:
                    self._journal.empty()
            except OSError as error:
                log.debug("%s: %s; some records will be sent twice, which is harmless", self.folder, error)
            self.changed.notify_all()

    def tidy(self) -> None:
        """Leave no files where nothing waits; the next record begins new ones."""
        with self.changed:
            if self._journal is not None and not self._waiting:
                journal, self._journal = self._journal, None
                journal.remove()

    def close(self) -> None:
        """Let go of the files, so that another outbox takes them over."""
        with self.changed:
            for journal in (*self._left, *([self._journal] if self._journal else [])):
                journal.close()
            self._left, self._journal = {}, None

    def _keep(self, record: LogRecord) -> Waiting:
        try:
            if self._journal is None:
                self._journal = Journal.begin(self.folder)
            number, kept = self._journal.append(record)
        except OSError as error:
            if not self._unkept:
                self._unkept = True
                log.warning("%s cannot be written (%s); what is not sent at once may be lost", self.folder, error)
            return Waiting(record, None, 0)
        return Waiting(kept, self._journal, number)

    def _clear(self, journal: Journal) -> None:
        """Remove an earlier process's journal when nothing of it waits."""
        if self._left[journal] == 0:
            del self._left[journal]
            journal.remove()


def _is_of_run(record: LogRecord, folder: Path) -> bool:
    """Whether all files that a record of another process names lie in the run's folder: all that steps record do."""
    if record.kind not in ("artifact", "content", "model"):
        return True
    try:
        below = [str(record.body[key]) for key in ("name", "folder") if record.body.get(key)]
        path = Path(record.body["path"]).resolve() if record.kind != "content" else folder.resolve()
    except (AttributeError, KeyError, TypeError, OSError):
        return False
    return path.is_relative_to(folder.resolve()) and not any(map(leads_out, below))
