"""Progress of long work: a bar on a terminal, plain lines elsewhere, fed by workers on any machine.

Workers send what they have done to one small Ray actor; a thread beside the driver shows it. So the same few lines
serve Train, Tune and Data, and nothing is printed from inside the mathematics.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import ray
from ray.actor import ActorHandle
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sadm_ray.cluster import actor_beside_driver

log = logging.getLogger(__name__)

LINE_SECONDS = 15.0
POLL_SECONDS = 0.5
ANSWER_SECONDS = 30.0  # a busy machine takes its time

Reporter: TypeAlias = ActorHandle
"""What workers hold: `reporter.add.remote(1)`, `reporter.reach.remote(step, "loss 0.12")`, and `reporter.say.remote(…)`
for a line of the log."""


class ProgressCounter:
    """What `progress` reads: how much is done, a note beside it, and lines for the log."""

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
def progress(title: str, total: int, counter: Reporter | None = None) -> Iterator[Reporter]:
    """Show progress towards `total` while the block runs; give its workers the value.

    Args:
        counter: an actor that is a `ProgressCounter` among other things, and outlives the block; none: one of its own.
    """
    reporter = counter or actor_beside_driver(ProgressCounter)
    stop = threading.Event()
    shown = threading.Thread(target=_show, args=(reporter, title, total, stop), daemon=True)
    shown.start()
    try:
        yield reporter
    finally:
        stop.set()
        shown.join()
        if counter is None:
            ray.kill(reporter)


def _show(counter: Any, title: str, total: int, stop: threading.Event) -> None:
    show = _bar if sys.stderr.isatty() else _lines
    for _ in show(title, total, _states(counter, stop)):
        pass


def _states(counter: Any, stop: threading.Event) -> Iterator[tuple[int, str]]:
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


def _bar(title: str, total: int, states: Iterator[tuple[int, str]]) -> Iterator[None]:
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


def _lines(title: str, total: int, states: Iterator[tuple[int, str]]) -> Iterator[None]:
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
