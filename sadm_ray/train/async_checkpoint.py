"""Asynchronous checkpoints: training waits only until the tensors are copied, not until they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sadm_ray.errors import DataError
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.train.checkpoint import Checkpoints
from sadm_ray.train.train_state import StateTensors


class AsyncCheckpointWriter:
    """Writes one checkpoint at a time in a thread of its own; only the first worker has one.

    After a failed write (full disk, storage out of reach) it warns and training goes on: the next may succeed.
    """

    def __init__(self, checkpoints: Checkpoints, config: ModelConfig, warn: Callable[[str], None]) -> None:
        self._checkpoints, self._config, self._warn = checkpoints, config, warn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: list[Future[str]] = []

    def start_write(self, state: StateTensors, metadata: Mapping[str, Any], folder: str | None = None) -> None:
        """Start to write, after waiting for the write before. `state` must not change any more."""
        self._wait()
        self._pending.append(self._thread.submit(self._write, state, metadata, folder))

    def finish(self, step: int) -> None:
        """Wait for the last write.

        Raises:
            DataError: the last one could not be written.
        """
        failure = self._wait()
        self._thread.shutdown()
        if failure:
            raise DataError(
                f"{self._checkpoints.storage.where()}: the checkpoint of step {step} cannot be written ({failure}); "
                "make room or mend the storage, and run the same command again: it goes on from the checkpoint before"
            )

    def _wait(self) -> str:
        failure = ""
        for write in self._pending:
            failure = write.result()
        self._pending.clear()
        return failure

    def _write(self, state: StateTensors, metadata: Mapping[str, Any], folder: str | None) -> str:
        try:
            self._checkpoints.write(self._config, state, metadata, folder)
        except OSError as error:
            reason = error.strerror or str(error).splitlines()[0]
            self._warn(
                f"{self._checkpoints.storage.where()}: the checkpoint of step {metadata['step']} cannot be written "
                f"({reason}); training goes on, those before are kept"
            )
            return reason
        return ""
