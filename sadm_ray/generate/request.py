"""From a task to what the model is asked: which frames are observed, which are wanted, and with which seeds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from sadm_ray.config import TaskSettings
from sadm_ray.data.sequence import snap


@dataclass(frozen=True)
class Request:
    """A task put to one subject.

    `targets` are slots of its sequence, `target_times` their times. A target may be a slot that was scanned (then there
    is a truth to compare with) or one that never was.
    """

    observed: Bool[np.ndarray, " t"]
    targets: tuple[int, ...]
    target_times: Float[np.ndarray, " m"]


def ask(task: TaskSettings, present: Bool[np.ndarray, " t"], times: Float[np.ndarray, " t"]) -> Request:
    """Put `task` to a subject with the slots `present`.

    A slot that the task observes and the subject lacks is replaced by the nearest one that it has. A target is never
    observed, not even by that.

    Raises:
        ValueError: nothing is left to observe, or the sequence is too short for the task.
    """
    slots = len(present)
    beyond = [frame for frame in (*task.observed, *task.targets) if not -slots <= frame < slots]
    if beyond:
        raise ValueError(f"has {slots} frames, hence no frame {beyond[0]} for task '{task.name}'")
    targets = tuple(dict.fromkeys(target % slots for target in task.targets))
    observed = np.zeros(slots, dtype=bool)
    observed[[snap(frame, present.tolist()) for frame in task.observed]] = True
    observed[list(targets)] = False
    if not observed.any():
        raise ValueError(f"has no frame that task '{task.name}' may observe")
    return Request(observed, targets, np.asarray(times[list(targets)], dtype=np.float32))


def sample_seed(seed: int, subject: str, task: str, sample: int) -> int:
    """The seed of one sample: the same whatever the batch, the actor or the order of the work."""
    digest = hashlib.sha256(f"{seed}/{subject}/{task}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
