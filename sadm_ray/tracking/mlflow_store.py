"""Records as MLflow calls. A record that is sent twice is kept by MLflow once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sadm_ray.tracking import artifacts
from sadm_ray.tracking.log_record import LogRecord, TrackingStore
from sadm_ray.tracking.mlflow_client import LazyClient, is_code, is_refusal
from sadm_ray.tracking.mlflow_model_registry import register_model
from sadm_ray.tracking.mlflow_runs import MlflowRuns
from sadm_ray.tracking.tracked_run import MOST_METRICS


@dataclass(frozen=True)
class Refusal:
    """What MLflow will never take, and why."""

    what: str
    reason: Exception


class MlflowStore:
    """MLflow as the store of a pipeline run's records."""

    def __init__(self, place: TrackingStore) -> None:
        self._client = LazyClient(place.uri)
        self._runs = MlflowRuns(place, self._client)

    @property
    def heard_at(self) -> float:
        """When it last answered within a `send` that goes on, by `time.monotonic`."""
        return self._client.heard_at

    def answers(self) -> bool:
        """Whether MLflow can be reached at all."""
        try:
            self._client().search_experiments(max_results=1)
        except Exception:  # whatever the store's driver raises
            return False
        return True

    def has_run(self, key: str) -> bool:
        """Whether the run of that key was made."""
        return self._runs.known(key) is not None

    def history(self, key: str, metric: str) -> list[tuple[int, float]]:
        """The curve of a metric; of a step recorded twice, the later.

        Raises:
            Exception: any error of MLflow when it is out of reach.
        """
        run = self._runs.known(key)
        rows = self._client().get_metric_history(run, metric) if run else []
        return sorted({row.step: row.value for row in sorted(rows, key=lambda row: row.timestamp)}.items())

    def send(self, records: Sequence[LogRecord], content: Callable[[], bytes]) -> list[Refusal]:
        """Send records that fit into one call (see `call_size`).

        Args:
            content: gives the bytes of a content.

        Returns:
            what was refused for good; all else has arrived.

        Raises:
            Exception: any error of MLflow when it is out of reach; all of it is to be sent again.
        """
        first = records[0]
        run = self._runs.get(first.key, first.time)
        if first.kind in ("params", "metrics", "tags"):
            return list(self._log(run, first.kind, _rows(records)))
        try:
            self._send(run, first, content)
        except Exception as error:
            if not is_refusal(error):
                raise
            return [Refusal(str(first.body.get("name") or first.body.get("path") or first.kind), error)]
        return []

    def _log(self, run: str, kind: str, rows: list[Any]) -> Iterator[Refusal]:
        """In one call, and when that is refused in halves, so that only the bad ones are left out."""
        try:
            self._client().log_batch(run, **{kind: rows})
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(rows) == 1:
                yield Refusal(rows[0].key, error)
                return
            middle = len(rows) // 2
            yield from self._log(run, kind, rows[:middle])
            yield from self._log(run, kind, rows[middle:])

    def _send(self, run: str, record: LogRecord, content: Callable[[], bytes]) -> None:
        client, body = self._client(), record.body
        match record.kind:
            case "artifact":
                artifacts.log_path(client, run, Path(body["path"]), body["folder"])
            case "content":
                artifacts.log_content(client, run, PurePosixPath(body["name"]), content(), body["folder"])
            case "dataset":
                artifacts.log_dataset(client, run, body)
            case "model":
                register_model(client, run, Path(body["path"]), body["name"], body["tags"])
            case "status":
                self._set_status(run, record)

    def _set_status(self, run: str, record: LogRecord) -> None:
        try:
            self._set_status_of(run, record)
        except Exception as error:
            if not is_code(error, "RESOURCE_DOES_NOT_EXIST"):
                raise
            self._set_status_of(self._runs.again(record.key, record.time), record)

    def _set_status_of(self, run: str, record: LogRecord) -> None:
        status = record.body["status"]
        if status == "RUNNING":
            self._client().update_run(run, status=status)
        else:
            self._client().set_terminated(run, status, end_time=record.time)


def call_size(records: Sequence[LogRecord]) -> int:
    """How many of the first records go into one call: metrics of one run, as many as MLflow takes."""
    first, size = records[0], 0
    if first.kind != "metrics":
        return 1
    for count, record in enumerate(records):
        size += len(record.body.get("values", ()))
        if (record.key, record.kind) != (first.key, first.kind) or size > MOST_METRICS:
            return max(count, 1)
    return len(records)


def _rows(records: Sequence[LogRecord]) -> list[Any]:
    from mlflow.entities import Metric, Param, RunTag

    values = [(record, key, value) for record in records for key, value in record.body["values"].items()]
    match records[0].kind:
        case "metrics":
            return [Metric(key, value, record.time, record.body["step"]) for record, key, value in values]
        case "params":
            return [Param(key, value) for _, key, value in values]
        case _:
            return [RunTag(key, value) for _, key, value in values]
