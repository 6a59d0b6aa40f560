"""The MLflow client, and what its errors mean."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from typing import TYPE_CHECKING

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
    return MlflowClient(tracking_uri=uri)


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


def first_line(error: Exception) -> str:
    """The error in one line of the log."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:250]
