"""Progress of long work: a bar on a terminal, plain lines elsewhere, fed by workers on any machine.

The driver counts the results as they come in; only the workers of a training, which return none, send what they have
done to a small Ray actor. A thread beside the driver shows it. So the same few lines serve Train, Tune and Data, and
nothing is printed from inside the mathematics.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import ray
from ray.actor import ActorHandle
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

LINE_SECONDS = 15.0
POLL_SECONDS = 0.5
ANSWER_SECONDS = 30.0  # a busy machine takes its time

Reporter: TypeAlias = ActorHandle
"""What the workers of a training hold: `reporter.reach.remote(step, "loss 0.12")`, and `reporter.say.remote(…)` for a
line of the log."""
States: TypeAlias = Iterator[tuple[int, str]]
"""How much is done and the note beside it, again and again, until the work has ended."""


class ProgressCounter:
    """How much is done, a note beside it, and lines for the log."""

    def __init__(self) -> None:
        self.done, self.note = 0, ""
        self.lines: list[str] = []

    def add(self, count: int, note: str = "") -> None:
        self.done += count
        self.note = note or self.note

    def reach(self, done: int, note: str = "") -> None:
        self.done, self.note = done, note

    def say(self, line: str) -> None:
        self.lines.append(line)

    def state(self) -> tuple[int, str, list[str]]:
        lines, self.lines = self.lines, []
        return self.done, self.note, lines


@contextmanager
def progress(title: str, total: int) -> Iterator[ProgressCounter]:
    """Show progress towards `total` while the block runs, which counts what is done."""
    counter = ProgressCounter()
    with _shown(title, total, lambda stop: _own_states(counter, stop)):
        yield counter


@contextmanager
def workers_progress(title: str, total: int, counter: Reporter) -> Iterator[None]:
    """Show progress towards `total` while the block runs, whose workers count on any machine what is done.

    Args:
        counter: an actor that is a `ProgressCounter` among other things, and outlives the block.
    """
    with _shown(title, total, lambda stop: _states(counter, stop)):
        yield


@contextmanager
def _shown(title: str, total: int, states: Callable[[threading.Event], States]) -> Iterator[None]:
    stop = threading.Event()
    shown = threading.Thread(target=_show, args=(title, total, states(stop)), daemon=True)
    shown.start()
    try:
        yield
    finally:
        stop.set()
        shown.join()


def _show(title: str, total: int, states: States) -> None:
    show = _bar if sys.stderr.isatty() else _lines
    for _ in show(title, total, states):
        pass


def _own_states(counter: ProgressCounter, stop: threading.Event) -> States:
    stopped = False
    while not stopped:
        stopped = stop.wait(POLL_SECONDS)
        done, note, lines = counter.state()
        for line in lines:
            log.warning("%s", line)
        yield done, note


def _states(counter: Any, stop: threading.Event) -> States:
    pending, last = None, False
    while not last:
        stopped = stop.wait(POLL_SECONDS)
        # An answer that was late has taken the lines along: it is waited for again, and is not yet the last one.
        last, pending = stopped and pending is None, pending or counter.state.remote()
        try:
            done, note, lines = ray.get(pending, timeout=ANSWER_SECONDS)
        except ray.exceptions.GetTimeoutError:
            if stopped:
                return
            continue
        except ray.exceptions.RayError:  # the counter went with its node: the work itself fails if that matters
            return
        pending = None
        for line in lines:
            log.warning("%s", line)
        yield done, note


def _bar(title: str, total: int, states: States) -> Iterator[None]:
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total, note="")
        for done, note in states:
            bars.update(task, completed=done, note=note)
            yield


def _lines(title: str, total: int, states: States) -> Iterator[None]:
    start = time.monotonic()
    due = start + LINE_SECONDS
    done, note = 0, ""
    for done, note in states:
        if time.monotonic() >= due and done < total:
            due = time.monotonic() + LINE_SECONDS
            _print_line(title, done, total, start, note)
        yield
    _print_line(title, done, total, start, note)


def _print_line(title: str, done: int, total: int, start: float, note: str) -> None:
    spent = f"{time.monotonic() - start:.0f} s"
    print(f"{title}: {done}/{total} after {spent}{'  ' + note if note else ''}", file=sys.stderr, flush=True)
