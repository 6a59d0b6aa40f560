"""Checkpoints are written beside training: the step that makes one waits for the copy of the tensors alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sadm_ray.errors import DataError
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.train.checkpoint import Checkpoints
from sadm_ray.train.train_state import StateTensors


class AsyncCheckpointWriter:
    """Writes one checkpoint at a time in a thread of its own; the first worker has one.

    A write that fails (a full disk, storage out of reach) is told of and training goes on: the next may succeed.
    """

    def __init__(self, checkpoints: Checkpoints, config: ModelConfig, warn: Callable[[str], None]) -> None:
        self._checkpoints, self._config, self._warn = checkpoints, config, warn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: list[Future[str]] = []

    def begin(self, state: StateTensors, told: Mapping[str, Any], folder: str | None = None) -> None:
        """Write, when the one before is written: `state` must not change any more."""
        self._settle()
        self._pending.append(self._thread.submit(self._write, state, told, folder))

    def finish(self, step: int) -> None:
        """Wait for all.

        Raises:
            DataError: the last one could not be written.
        """
        failure = self._settle()
        self._thread.shutdown()
        if failure:
            raise DataError(
                f"{self._checkpoints.storage.where()}: the checkpoint of step {step} cannot be written ({failure}); "
                "make room or mend the storage, and run the same command again: it goes on from the checkpoint before"
            )

    def _settle(self) -> str:
        failure = ""
        for write in self._pending:
            failure = write.result()
        self._pending.clear()
        return failure

    def _write(self, state: StateTensors, told: Mapping[str, Any], folder: str | None) -> str:
        try:
            self._checkpoints.write(self._config, state, told, folder)
        except OSError as error:
            reason = error.strerror or str(error).splitlines()[0]
            self._warn(
                f"{self._checkpoints.storage.where()}: the checkpoint of step {told['step']} cannot be written "
                f"({reason}); training goes on, those before are kept"
            )
            return reason
        return ""
