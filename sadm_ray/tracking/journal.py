"""Records in a file, so that they outlive the process.

Each process writes a journal of its own (`<host>-<pid>-<n>.jsonl`) and holds a lock on it; a lock ends with its
process, however that ends. So a later process can see which journals have lost theirs. Beside a journal are the
numbers of the records that were sent (`.sent`) and the bytes of contents (`.files`).
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from sadm_ray.tracking.log_record import LogRecord


class Journal:
    """An append-only file of records, numbered in their order.

    Raises:
        OSError: from any method, where the folder cannot be written.
    """

    def __init__(self, file: Path, descriptor: int) -> None:
        self._file, self._descriptor = file, descriptor
        self._sent = os.open(file.with_suffix(".sent"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._next = 0

    @classmethod
    def begin(cls, folder: Path) -> Journal:
        """A new journal."""
        folder.mkdir(parents=True, exist_ok=True)
        for count in itertools.count():
            file = folder / f"{socket.gethostname()}-{os.getpid()}-{count}.jsonl"
            try:
                descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            except FileExistsError:
                continue
            if _lock(file, descriptor):
                return cls(file, descriptor)
            os.close(descriptor)  # another process took it for a left one before it was locked
        raise AssertionError

    @classmethod
    def left(cls, folder: Path) -> Iterator[tuple[Journal, list[tuple[int, LogRecord]]]]:
        """The journals whose process is gone, oldest first, with their unsent records."""
        for file in sorted(folder.glob("*.jsonl"), key=_age):
            try:
                descriptor = os.open(file, os.O_RDWR)
            except FileNotFoundError:
                continue
            if _lock(file, descriptor):
                journal = cls(file, descriptor)
                yield journal, journal._unsent()
            else:
                os.close(descriptor)

    def append(self, record: LogRecord) -> tuple[int, LogRecord]:
        """Keep a record.

        Returns:
            its number, and the record as it was kept: its bytes are in a file now.
        """
        number = self._next
        self._next += 1
        if record.data is not None:
            file = self._content(number)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(record.data)
            record = replace(record, data=None)
        line = {"number": number, **asdict(record)}
        del line["data"]
        # One write of a whole line: a process that is killed leaves it whole or torn at the very end of the file.
        _write(self._descriptor, json.dumps(line) + "\n")
        return number, record

    def content(self, number: int) -> bytes:
        """The bytes of the record of that number."""
        return self._content(number).read_bytes()

    def sent(self, numbers: Iterable[int]) -> None:
        """Mark records as sent, or as refused for good."""
        numbers = list(numbers)
        _write(self._sent, "".join(f"{number}\n" for number in numbers))
        for number in numbers:
            self._content(number).unlink(missing_ok=True)

    def empty(self) -> None:
        """Forget all records; to be called when all have been sent. Numbers go on, so that no mark fits a new one."""
        os.ftruncate(self._descriptor, 0)
        os.ftruncate(self._sent, 0)

    def remove(self) -> None:
        """Remove the files."""
        self._file.unlink(missing_ok=True)
        self._file.with_suffix(".sent").unlink(missing_ok=True)
        shutil.rmtree(self._file.with_suffix(".files"), ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let go of the files, as the end of the process would."""
        os.close(self._descriptor)
        os.close(self._sent)

    def _content(self, number: int) -> Path:
        return self._file.with_suffix(".files") / str(number)

    def _unsent(self) -> list[tuple[int, LogRecord]]:
        # A mark without its newline may be the torn head of a longer number.
        marks = self._file.with_suffix(".sent").read_text(encoding="utf-8").split("\n")[:-1]
        sent = {int(mark) for mark in marks if mark.isdigit()}
        found = []
        for line in self._file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                fields = json.loads(line)
                number = int(fields.pop("number"))
                record = LogRecord(**fields)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # torn when the process was killed
            if number not in sent:
                found.append((number, record))
        return found


def _age(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # its process has just sent everything
        return 0.0


def _lock(file: Path, descriptor: int) -> bool:
    """Lock a journal; whether this process holds the lock now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        # Some network file systems know no locks. Better sent twice, which is harmless, than never.
    try:
        return os.fstat(descriptor).st_ino == file.stat().st_ino
    except FileNotFoundError:
        return False


def _write(descriptor: int, text: str) -> None:
    data = text.encode()
    while data:
        data = data[os.write(descriptor, data) :]
