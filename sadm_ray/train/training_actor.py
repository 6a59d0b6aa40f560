"""The one small actor of a training, beside the driver: its progress, its mailbox and its control.

One, as each is a process that takes a second of a CPU to begin. What it imports is light for the same reason: PyTorch
and Ray Train here took five seconds more.
"""

from __future__ import annotations

from sadm_ray.errors import UserError
from sadm_ray.progress import ProgressCounter
from sadm_ray.tracking.worker_logging import Mailbox


class TrainingActor(ProgressCounter, Mailbox):
    """Also passes a request to stop to the workers, and an error that ends the training to the driver."""

    def __init__(self) -> None:
        ProgressCounter.__init__(self)
        Mailbox.__init__(self)
        self._stop = self._asked = False
        self._failure: UserError | None = None

    def request_stop(self) -> None:
        """Ask the workers to save and exit."""
        self._stop = True

    def stopping(self) -> bool:
        """Whether they were asked to."""
        self._asked = True
        return self._stop

    def has_begun(self) -> bool:
        """Whether the workers take steps, and so would see a request to stop."""
        return self._asked

    def fail(self, error: UserError) -> None:
        """End the training with this error; the first one counts."""
        self._failure = self._failure or error

    def failure(self) -> UserError | None:
        """The error that ended the training."""
        return self._failure
