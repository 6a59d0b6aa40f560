"""What the driver and its workers tell each other beside the work: to stop, and why it cannot go on."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, TypeAlias

import ray
import ray.train
import torch
from ray.actor import ActorHandle

from sadm_ray.cluster import actor_beside_driver
from sadm_ray.errors import UserError

Control: TypeAlias = ActorHandle
"""What workers hold: `control.failed.remote()` and the like of `_Control`."""

_ASK_SECONDS = 1.0


class _Control:
    def __init__(self) -> None:
        self._stop = False
        self._failure: UserError | None = None

    def ask_stop(self) -> None:
        self._stop = True

    def stopping(self) -> bool:
        return self._stop

    def fail(self, error: UserError) -> None:
        self._failure = self._failure or error

    def failure(self) -> UserError | None:
        return self._failure


@contextlib.contextmanager
def control(stop: threading.Event | None = None) -> Iterator[Control]:
    """Made by the driver for the time of a training; SIGTERM, or `stop`, then asks the workers to save and leave."""
    actor = actor_beside_driver(_Control)
    asked, ended = stop or threading.Event(), threading.Event()

    def pass_on() -> None:  # not in the signal's handler, which may interrupt Ray in the middle of anything
        asked.wait()
        if not ended.is_set():
            actor.ask_stop.remote()

    threading.Thread(target=pass_on, daemon=True).start()
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set()) if in_main else None
    try:
        yield actor
    finally:
        ended.set()
        asked.set()
        if in_main:
            signal.signal(signal.SIGTERM, before)
        ray.kill(actor)


class StopSignal:
    """Whether to save and leave, asked by the first worker about once a second and agreed on by all.

    The answer comes a step late: nobody waits for the driver or for the other workers.
    """

    def __init__(self, actor: Control, rank: int, world: int, device: torch.device) -> None:
        self._actor, self._rank, self._world = actor, rank, world
        self._flag = torch.zeros(1, device=device)
        self._exchange: torch.distributed.Work | None = None
        self._question: Any = None
        self._asked = 0.0

    def agreed(self) -> bool:
        """Called by all workers in every step, with the same answer for all."""
        if self._world == 1:
            return self._heard()
        if self._exchange is not None:
            self._exchange.wait()
            if self._flag.item():
                return True
        self._flag.fill_(float(self._rank == 0 and self._heard()))
        self._exchange = torch.distributed.all_reduce(self._flag, torch.distributed.ReduceOp.MAX, async_op=True)
        return False

    def _heard(self) -> bool:
        if self._question is not None and ray.wait([self._question], timeout=0)[0]:
            stop, self._question = bool(ray.get(self._question)), None
            if stop:
                return True
        if self._question is None and time.monotonic() - self._asked > _ASK_SECONDS:
            self._question, self._asked = self._actor.stopping.remote(), time.monotonic()
        return False
