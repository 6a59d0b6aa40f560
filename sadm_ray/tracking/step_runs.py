"""The steps of a pipeline run as MLflow runs."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sadm_ray.config import Settings, flatten
from sadm_ray.errors import Stopped
from sadm_ray.interruption import is_interrupted, last_word
from sadm_ray.tracking.driver_logging import DriverSink
from sadm_ray.tracking.log_record import PARENT, TrackingStore
from sadm_ray.tracking.mlflow_client import shown
from sadm_ray.tracking.outbox import outbox_folder
from sadm_ray.tracking.run_ids import RunIds
from sadm_ray.tracking.sqlite_uri import sqlite_uri
from sadm_ray.tracking.tracked_run import TrackedRun

log = logging.getLogger(__name__)
INTERRUPTED_SECONDS = 3.0
"""How long the end of an interrupted step waits for MLflow; the next command sends what is left."""


def tracking_uri(settings: Settings) -> str:
    """The setting, else `MLFLOW_TRACKING_URI`, else a sqlite file in the run's folder.

    Raises:
        ConfigError: the run's folder has a name that no such file can have, in one line.
    """
    chosen = settings.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or sqlite_uri(settings.run_dir / "mlflow.db")


@contextmanager
def tracked_step(settings: Settings, step: str) -> Iterator[TrackedRun]:
    """The MLflow run of a step of this pipeline run; running the step again goes on in it.

    It does not wait for MLflow, except at the end: until all is sent, or some seconds when MLflow is out of reach. What
    is left is sent by the next step of this run.
    """
    driver = DriverSink(_place(settings))
    run = _open_step(settings, step, driver)
    try:
        with last_word(lambda: run.finish("FAILED")):
            yield run
    except BaseException as error:
        run.finish("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit | Stopped) else "FAILED")
        raise
    else:
        run.finish()
    finally:
        if left := driver.flush(INTERRUPTED_SECONDS if is_interrupted() else math.inf):
            log.warning(
                "%d records for MLflow at %s are kept in %s; the next command of this run sends them",
                left,
                shown(driver.place.uri),
                outbox_folder(driver.place),
            )


def begin_anew(settings: Settings, step: str) -> None:
    """Record to new MLflow runs from now on, if that step has one: another model begins in the run's folder.

    MLflow keeps the first parameters of a run: those of the earlier model would stand beside the scores of this one.
    """
    driver = DriverSink(_place(settings))
    if not driver.knows(step):
        return
    if left := driver.flush():
        log.warning(
            "%d records of the model that was in %s before wait for MLflow; they will be among those of the new one",
            left,
            settings.run_dir,
        )
    RunIds(settings.run_dir, tracking_uri(settings)).forget()


def step_history(settings: Settings, step: str, metric: str) -> list[tuple[int, float]]:
    """The curve of a metric that a step recorded; empty where there is none, or MLflow is out of reach."""
    return DriverSink(_place(settings)).history(step, metric)


def _place(settings: Settings) -> TrackingStore:
    return TrackingStore(settings.run_dir, tracking_uri(settings), settings.tracking.experiment, settings.run.name)


def _open_step(settings: Settings, step: str, driver: DriverSink) -> TrackedRun:
    parent, run = TrackedRun(PARENT, driver), TrackedRun(step, driver)
    if not driver.knows(PARENT):
        parent.params(flatten(settings))
    parent.finish()  # it only groups its children, and is never left RUNNING by a crash
    run.finish("RUNNING")
    return run
