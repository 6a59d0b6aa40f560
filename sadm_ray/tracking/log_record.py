"""Records for MLflow, and the interface of what takes them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

Kind: TypeAlias = Literal["status", "params", "metrics", "tags", "artifact", "content", "dataset", "model"]
PARENT = "run"
"""The key of the run that groups the steps. A step's key is its name, a child's is `<parent's key>/<name>`."""


def now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


@dataclass(frozen=True)
class LogRecord:
    """One entry for MLflow about the run called `key`.

    `body` is plain JSON. The time is that of recording: it may be sent hours later, and a record that is sent twice
    is the same for MLflow only if its time is the same.
    """

    key: str
    kind: Kind
    body: dict[str, Any]
    data: bytes | None = None
    time: int = field(default_factory=now)


class Sink(Protocol):
    """Where a `TrackedRun` puts its records: the outbox on the driver, a mailbox on a worker. Putting never waits."""

    def put(self, record: LogRecord) -> None:
        """Take in a record; errors are logged, never raised."""

    def history(self, key: str, metric: str) -> list[tuple[int, float]]:
        """The curve of a metric, where it can be read."""


@dataclass(frozen=True)
class TrackingStore:
    """The run's folder, and where its records go."""

    folder: Path
    uri: str
    experiment: str
    name: str


def parent_of(key: str) -> str | None:
    """The key of the run above; `None` for the topmost."""
    return None if key == PARENT else key.rpartition("/")[0] or PARENT
