"""The MLflow client, and what its errors mean."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

from sadm_ray.tracking.sqlite_uri import sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    # MLflow's own client would try for minutes; the sender tries again itself. One retry is for a connection that a
    # server has closed in a pause, which is no outage.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # from a thread it would break into other output
    "MLFLOW_DISABLE_TELEMETRY": "true",  # patients' data is near: nothing is reported anywhere
}
MENDABLE = {401, 403, 408, 429, 499}
"""HTTP statuses of the 4xx that say nothing against the record: a password or a right can still be mended."""
MENDABLE_CODES = {"BAD_REQUEST", "ENDPOINT_NOT_FOUND", "ABORTED", "RESOURCE_CONFLICT"}
"""MLflow gives BAD_REQUEST for any error of its database, and the others for proxies and races."""


class GoneError(Exception):
    """What was to be kept is no longer there."""


class LazyClient:
    """The client of a store, made at the first call: that creates a sqlite store, and takes seconds."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: MlflowClient | None = None
        self._making = threading.Lock()
        self.heard_at = 0.0
        """When something was last heard from the store in the course of several calls, by `time.monotonic`."""

    def __call__(self) -> MlflowClient:
        """The client.

        Raises:
            Exception: any error of MLflow, over a URI it does not know or a database it cannot open.
        """
        with self._making:
            if self._client is None:
                self._client = _make(self._uri)
            return self._client

    def heard(self) -> None:
        """Note an answer, after a call that others follow: it shows that the store is slow, not away."""
        self.heard_at = time.monotonic()


def _make(uri: str) -> MlflowClient:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # MLflow logs the making of a sqlite store at length, and an outage at every try; the sender logs it once.
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for noisy in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    _open_sqlite(uri)
    return MlflowClient(tracking_uri=uri)


def _open_sqlite(uri: str) -> None:
    """Raise sqlite's error at once: MLflow was seen to try for 100 s to open a file that cannot be."""
    file = sqlite_file(uri)
    if file:
        with contextlib.closing(sqlite3.connect(file, timeout=5.0)) as database:
            database.execute("PRAGMA schema_version")


def is_refusal(error: Exception) -> bool:
    """Whether the same record would be refused for ever, as opposed to a store that is away or needs mending."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return 400 <= status < 500 and status not in MENDABLE and error.error_code not in MENDABLE_CODES
    status = getattr(getattr(error, "response", None), "status_code", 0)  # an upload: requests.HTTPError
    return isinstance(error, GoneError) or (400 <= status < 500 and status not in MENDABLE)


def is_code(error: Exception, code: str) -> bool:
    """Whether it is MLflow's error of that code."""
    return getattr(error, "error_code", None) == code


def shown(uri: str) -> str:
    """The URI without a password."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


_SQLITE = {
    "database is locked": "another program has locked the file",
    "database disk image is malformed": "the file is damaged; move it away, and a new one is made",
    "file is not a database": "the file is no database, or damaged; move it away, and a new one is made",
    "attempt to write a readonly database": "the file, or its folder, may not be written",
    "unable to open database file": "the file cannot be opened; look at its folder and its permissions",
    "disk I/O error": "the file cannot be read or written (disk I/O error)",
    "database or disk is full": "the disk is full",
    "no such table": "the file lacks tables of MLflow; move it away, and a new one is made",
    "no such column": "the file's tables are not MLflow's; move it away, and a new one is made",
    "has no column named": "the file's tables are not MLflow's; move it away, and a new one is made",
}
"""What sqlite says, and what it means here."""


def first_line(error: Exception) -> str:
    """The error in one short line of the log, without the SQL that SQLAlchemy and MLflow put into theirs."""
    text = str(error).strip()
    if driver := re.search(r"\((?:\w+\.)*\w*Error\) (.+)", text):  # what the database's driver says, within all else
        text = driver[1]
    for says, means in _SQLITE.items():
        if says in text.partition("\n")[0]:
            return means
    text = re.split(r"\s*(?:\[SQL:|\[parameters:|\(Background on this error| NOTE: )", text)[0]
    return (text or type(error).__name__).splitlines()[0][:250]
