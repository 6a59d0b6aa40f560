"""Signals between the driver and its workers: a request to stop, and an error that ends the training."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import ray
import ray.train
import torch
from ray.actor import ActorHandle

from sadm_ray.cluster import actor_beside_driver
from sadm_ray.interruption import on_first_signal
from sadm_ray.train.training_actor import TrainingActor

Control: TypeAlias = ActorHandle
"""A handle of a `TrainingActor`: `control.stopping.remote()` and so on."""

_POLL_SECONDS = 1.0


@contextlib.contextmanager
def control(stop: threading.Event | None = None) -> Iterator[tuple[Control, Callable[[], signal.Signals | None]]]:
    """The control actor of a training, made by the driver; on SIGTERM, Ctrl-C or `stop` the workers save and exit.

    A signal that comes before the first step ends the training at once, as does a second one.

    Yields:
        the actor, and a function that returns the signal that came.
    """
    actor = actor_beside_driver(TrainingActor, max_restarts=3)
    requested, ended = stop or threading.Event(), threading.Event()

    def forward_request() -> None:  # not in the signal handler, which may interrupt Ray anywhere
        requested.wait()
        with contextlib.suppress(ray.exceptions.RayError):  # the training has just ended
            while not ended.is_set():  # again and again: an actor that was restarted has forgotten it
                actor.request_stop.remote()
                came = signal_that_came()
                if came is not None and not ray.get(actor.has_begun.remote()) and not ended.is_set():
                    os.kill(os.getpid(), came)
                ended.wait(_POLL_SECONDS)

    with on_first_signal(requested.set) as signal_that_came:
        threading.Thread(target=forward_request, daemon=True).start()
        try:
            yield actor, signal_that_came
        finally:
            ended.set()
            requested.set()
            ray.kill(actor)


class StopSignal:
    """Whether to save and exit: the first worker polls the driver about once a second, and all workers agree.

    The result is a step late, so that no worker waits for the driver or for the others.
    """

    def __init__(self, actor: Control, rank: int, world: int, device: torch.device) -> None:
        self._actor, self._rank, self._world = actor, rank, world
        self._flag = torch.zeros(1, device=device)
        self._all_reduce: torch.distributed.Work | None = None
        self._reply: Any = None
        self._polled_at = 0.0

    def agreed(self) -> bool:
        """Called by all workers in every step; returns the same to all."""
        if self._world == 1:
            return self._poll()
        if self._all_reduce is not None:
            self._all_reduce.wait()
            if self._flag.item():
                return True
        self._flag.fill_(float(self._rank == 0 and self._poll()))
        self._all_reduce = torch.distributed.all_reduce(self._flag, torch.distributed.ReduceOp.MAX, async_op=True)
        return False

    def _poll(self) -> bool:
        if self._reply is not None and ray.wait([self._reply], timeout=0)[0]:
            stop, self._reply = bool(ray.get(self._reply)), None
            if stop:
                return True
        if self._reply is None and time.monotonic() - self._polled_at > _POLL_SECONDS:
            self._reply, self._polled_at = self._actor.stopping.remote(), time.monotonic()
        return False
