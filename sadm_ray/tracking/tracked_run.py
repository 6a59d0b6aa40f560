"""The run that steps and workers record to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sadm_ray.tracking.log_record import LogRecord, Sink

MOST_METRICS, MOST_PARAMS = 1000, 100
"""MLflow takes no more in one call."""


@dataclass(frozen=True)
class TrackedRun:
    """One run in MLflow, by the name that it has in this pipeline run. No method waits for MLflow or raises over it."""

    key: str
    sink: Sink

    def params(self, params: Mapping[str, Any]) -> None:
        """Record settings or facts. MLflow keeps the first value of each: another one later is refused."""
        for part in _parts({key: str(value)[:6000] for key, value in params.items()}, MOST_PARAMS):
            self.sink.put(LogRecord(self.key, "params", {"values": part}))

    def metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers at a step."""
        for part in _parts({key: float(value) for key, value in metrics.items()}, MOST_METRICS):
            self.sink.put(LogRecord(self.key, "metrics", {"values": part, "step": int(step)}))

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; a later value replaces an earlier one."""
        for part in _parts({key: str(value)[:8000] for key, value in tags.items()}, MOST_PARAMS):
            self.sink.put(LogRecord(self.key, "tags", {"values": part}))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder with all that is in it. It is read when it is sent: leave it where it is."""
        self.sink.put(LogRecord(self.key, "artifact", {"path": str(Path(path).absolute()), "folder": folder}))

    def content(self, name: str, data: bytes, folder: str | None = None) -> None:
        """Keep bytes as an artifact called `name`."""
        self.sink.put(LogRecord(self.key, "content", {"name": name, "folder": folder}, bytes(data)))

    def dataset(self, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """Name the data that the run uses.

        Args:
            digest: of the data's content; MLflow keeps 36 characters of it.
            source: a path or URL.
            profile: facts about the data, plain JSON.
        """
        body = {"name": name, "digest": digest[:36], "source": source, "profile": json.dumps(profile, default=str)}
        self.sink.put(LogRecord(self.key, "dataset", body))

    def register(self, folder: Path, name: str, tags: Mapping[str, str]) -> None:
        """Keep the model in `folder` and make it a new version of the registered model `name`.

        A run has one version of a content: a second call with the same `digest` among the tags makes no other.
        """
        body = {"path": str(Path(folder).absolute()), "name": name, "tags": {key: str(tags[key]) for key in tags}}
        self.sink.put(LogRecord(self.key, "model", body))

    def child(self, name: str) -> TrackedRun:
        """The run below this one that is called `name`: a new one, unless there is one already."""
        below = TrackedRun(f"{self.key}/{name.replace('/', '_')}", self.sink)
        below.finish("RUNNING")
        return below

    @property
    def unregistered(self) -> TrackedRun:
        """The same run for a helper's model, which is kept out of the registry."""
        return TrackedRun(self.key, _UnregisteredSink(self.sink))

    def finish(self, status: str = "FINISHED") -> None:
        """Set its status: FINISHED, FAILED or KILLED; RUNNING opens it again."""
        self.sink.put(LogRecord(self.key, "status", {"status": status}))

    def history(self, metric: str) -> list[tuple[int, float]]:
        """All (step, value) of a metric, by step; of a step recorded twice (a resumed run), the later."""
        return self.sink.history(self.key, metric)


@dataclass(frozen=True)
class _UnregisteredSink:
    """A sink that keeps models out of the registry."""

    sink: Sink

    def put(self, record: LogRecord) -> None:
        """Forward a record."""
        if record.kind != "model":
            self.sink.put(record)

    def history(self, key: str, metric: str) -> list[tuple[int, float]]:
        """Empty: such a training has no connection to MLflow."""
        return []


def _parts(values: dict[str, Any], most: int) -> Iterator[dict[str, Any]]:
    items = iter(values.items())
    while part := dict(islice(items, most)):
        yield part
