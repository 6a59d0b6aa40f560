"""Every MLflow call of the project.

A run of the pipeline is a parent run in MLflow, each of its steps a child, each trial of a sweep a child of that. The
ids are kept in the run's folder, so that a step that is run again goes on in the same MLflow run. Tracking is never
worth a failed job: when the store cannot be reached, one line says so and the work goes on.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sadm_ray.config import Settings, flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
IDS = "tracking.json"
PARENT = "run"
T = TypeVar("T")


def tracking_uri(settings: Settings) -> str:
    """The setting, else `MLFLOW_TRACKING_URI`, else a sqlite file in the run's folder."""
    default = f"sqlite:///{settings.run_dir / 'mlflow.db'}"
    return settings.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or default


@dataclass(frozen=True)
class TrackedRun:
    """One run in MLflow: a plain value that travels to workers. Without an id (MLflow out of reach) it is silent."""

    uri: str
    id: str | None

    def params(self, params: Mapping[str, Any]) -> None:
        """Record settings or facts, once."""
        from mlflow.entities import Param

        rows = [Param(key, str(value)[:6000]) for key, value in params.items()]
        for start in range(0, len(rows), 100):  # MLflow takes at most 100 at a time
            batch = rows[start : start + 100]
            self._call(partial(_log_params, params=batch))

    def metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers at a step, in one call."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        self._call(lambda client, run: client.log_batch(run, metrics=rows))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder with all that is in it."""
        if path.is_dir():
            self._call(lambda client, run: client.log_artifacts(run, str(path), folder or path.name))
        else:
            self._call(lambda client, run: client.log_artifact(run, str(path), folder))

    def history(self, metric: str) -> list[tuple[int, float]]:
        """All (step, value) of a metric, by step; of a step recorded twice (a resumed run), the later."""
        rows = self._call(lambda client, run: client.get_metric_history(run, metric)) or []
        return sorted({row.step: row.value for row in sorted(rows, key=lambda row: row.timestamp)}.items())

    def child(self, name: str) -> TrackedRun:
        """A new run below this one."""

        def create(client: MlflowClient, run: str) -> str:
            return _create(client, client.get_run(run).info.experiment_id, name, parent=run)

        return TrackedRun(self.uri, self._call(create))

    def finish(self, status: str = "FINISHED") -> None:
        """Close it: FINISHED, FAILED or KILLED."""
        self._call(lambda client, run: client.set_terminated(run, status))

    def _call(self, action: Callable[[MlflowClient, str], T]) -> T | None:
        if self.id is None:
            return None
        try:
            return action(_client(self.uri), self.id)
        except Exception as error:  # whatever the store's driver raises: see the head of this file
            log.warning("MLflow at %s took no record (%s); going on without it", self.uri, _first_line(error))
            return None


@contextmanager
def tracked_step(settings: Settings, step: str) -> Iterator[TrackedRun]:
    """The MLflow run of a step of this pipeline run; running the step again goes on in it."""
    run = _open_step(settings, step)
    try:
        yield run
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish()


def step_history(settings: Settings, step: str, metric: str) -> list[tuple[int, float]]:
    """The curve of a metric that an earlier step recorded; empty where there is none."""
    ids = _read_ids(settings)
    return TrackedRun(tracking_uri(settings), ids.get(step)).history(metric)


def _log_params(client: MlflowClient, run: str, params: list[Any]) -> None:
    client.log_batch(run, params=params)


def _open_step(settings: Settings, step: str) -> TrackedRun:
    uri = tracking_uri(settings)
    ids = _read_ids(settings)
    try:
        client = _client(uri)
        experiment = _experiment(client, settings)
        if PARENT not in ids:
            ids[PARENT] = _create(client, experiment, settings.run.name, parent=None)
            TrackedRun(uri, ids[PARENT]).params(flatten(settings))
        if step in ids:
            client.update_run(ids[step], status="RUNNING")
        else:
            ids[step] = _create(client, experiment, f"{settings.run.name}/{step}", parent=ids[PARENT])
        client.set_terminated(ids[PARENT])  # it only groups its children, and is never left RUNNING by a crash
    except Exception as error:  # as above
        log.warning("MLflow at %s cannot be used (%s); going on without it", uri, _first_line(error))
        return TrackedRun(uri, None)
    _write_ids(settings, ids)
    return TrackedRun(uri, ids[step])


@lru_cache(maxsize=8)
def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    for noisy in ("mlflow", "alembic"):  # the making of a new sqlite store is told at length
        logging.getLogger(noisy).setLevel(logging.WARNING)

    return MlflowClient(tracking_uri=uri)


def _experiment(client: MlflowClient, settings: Settings) -> str:
    known = client.get_experiment_by_name(settings.tracking.experiment)
    if known is not None:
        return known.experiment_id
    # Beside a sqlite store the artifacts need an absolute place, or they land in somebody's working directory.
    local = tracking_uri(settings).startswith("sqlite:")
    place = (settings.run_dir / "mlartifacts").as_uri() if local else None
    return client.create_experiment(settings.tracking.experiment, artifact_location=place)


def _create(client: MlflowClient, experiment: str, name: str, parent: str | None) -> str:
    tags = {"mlflow.parentRunId": parent} if parent else {}
    return client.create_run(experiment, run_name=name, tags=tags).info.run_id


def _read_ids(settings: Settings) -> dict[str, str]:
    """Step → MLflow run id, of the store in use now."""
    try:
        kept = json.loads((settings.run_dir / IDS).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return kept["ids"] if kept.get("uri") == tracking_uri(settings) else {}


def _write_ids(settings: Settings, ids: Mapping[str, str]) -> None:
    file = settings.run_dir / IDS
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"uri": tracking_uri(settings), "ids": dict(ids)}, indent=2), encoding="utf-8")
    new.replace(file)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
