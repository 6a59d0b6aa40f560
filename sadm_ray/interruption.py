"""How a command ends from outside: SIGINT, SIGTERM and a lost Ray, each in one line and with its exit code.

Ray, Ray Train and Ray Tune put handlers of their own in place of these, which print traces or end with other codes;
ours are set again after Ray has started, and where Ray Train would set its own it does not run in the main
thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
LINES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
AGAIN = "run the same command again to go on"
CLOSING_SECONDS = 30.0
"""How long closing may take after a signal, before the process ends all the same: nobody waits for a store that hangs,
and who sends SIGTERM often sends SIGKILL half a minute later."""


class Terminated(KeyboardInterrupt):
    """SIGTERM. Whatever lets Ctrl-C through, in our libraries too, lets this through."""


class _State:
    ours = False
    """Whether the signals of this process are ours: in a command, not in somebody's notebook."""
    catching = False
    """Whether an exception would arrive where it is turned into a line."""
    received: signal.Signals | None = None
    alarm = -1
    """Where a byte is written when a signal has come."""
    arrivals = -1
    """Where Python's own C handler puts the number of a signal at once, also while the main thread waits in Ray's core,
    which lets our handler run once a second."""
    terminal: int | None = None
    """A copy of stderr, which is muted at times."""


_ends_once = threading.Lock()
_last_words: list[Callable[[], None]] = []
_ending: list[Callable[[], None]] = []


def take_signals() -> None:
    """From now on a signal ends this process in one line."""
    if threading.current_thread() is threading.main_thread():
        if _State.terminal is None:
            with contextlib.suppress(OSError):
                _State.terminal = os.dup(2)
        if _State.arrivals < 0:
            _State.arrivals, writing = os.pipe()
            os.set_blocking(_State.arrivals, False)
            os.set_blocking(writing, False)
            signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        _State.ours = True
        for number in CODES:
            signal.signal(number, _on_signal)


def is_command() -> bool:
    """Whether this process is a command of ours: it may be ended, which a notebook's may not."""
    return _State.ours


def is_interrupted() -> bool:
    """Whether a signal has come, and the process is about to end."""
    return _State.received is not None


def arrived() -> signal.Signals | None:
    """The signal that has reached this process, also while our handler has not run yet."""
    if _State.received is None and _State.arrivals >= 0:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(_State.arrivals, 4096):
                if number in CODES:
                    return signal.Signals(number)
    return _State.received


@contextlib.contextmanager
def catching() -> Iterator[None]:
    """In the block the first signal raises `KeyboardInterrupt` or `Terminated`; elsewhere it ends the process."""
    reading, _State.alarm = os.pipe()
    watch = threading.Thread(target=_end_if_closing_hangs, args=(reading,), name="closing-watch", daemon=True)
    watch.start()  # here, since a handler may interrupt the starting of another thread, which holds a lock
    _State.catching = True
    try:
        yield
    finally:
        _State.catching = False
        if _State.received is None:
            os.close(_State.alarm)


@contextlib.contextmanager
def on_first_signal(ask: Callable[[], None]) -> Iterator[Callable[[], signal.Signals | None]]:
    """In the block the first SIGINT or SIGTERM calls `ask`, which must only set a flag; the next one does as before.

    Only in a process's main thread; in others nothing changes.

    Yields:
        a function that returns the signal that came, if one did.
    """
    came: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in CODES}

    def on_signal(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number))
        _restore(before)
        ask()

    for number in CODES:
        signal.signal(number, on_signal)
    try:
        yield lambda: came[0] if came else None
    finally:
        _restore(before)


@contextlib.contextmanager
def last_word(say: Callable[[], None]) -> Iterator[None]:
    """In the block `say` is called when the process is ended because Ray was lost: it cannot unwind then."""
    _last_words.append(say)
    try:
        yield
    finally:
        _last_words.remove(say)


@contextlib.contextmanager
def at_end(end_processes: Callable[[], None]) -> Iterator[None]:
    """In the block `end_processes` is called when the process ends without unwinding."""
    _ending.append(end_processes)
    try:
        yield
    finally:
        _ending.remove(end_processes)


def end_with_last_words(line: str, code: int) -> NoReturn:
    """End the process from another thread than the main one, which may be waiting for what will never come.

    The line comes first: without its raylet, Ray's core ends the process at any moment with code 1 and no word.
    """
    if not _ends_once.acquire(blocking=False):
        time.sleep(CLOSING_SECONDS)  # another thread is ending the process
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    mute()
    _to_nowhere(1)  # Ray prints of its dead raylet there
    _print_line(line)
    _end_processes()

    def say_all() -> None:
        for say in tuple(_last_words):
            with contextlib.suppress(Exception):
                say()

    if _last_words:
        saying = threading.Thread(target=say_all, daemon=True)  # what it needs, the main thread may hold
        saying.start()
        saying.join(2.0)
    _exit(code)


def is_ray_terminated(error: BaseException) -> bool:
    """Whether it is what SIGTERM raises in `ray.init` and just after it, before the handlers are ours again."""
    return _State.ours and isinstance(error, SystemExit) and error.code == signal.SIGTERM


def end_by_signal(number: signal.Signals = signal.SIGINT) -> NoReturn:
    """End the process in which everything is closed, without what libraries still do at the exit.

    Args:
        number: the signal, where none of our handlers has seen it.
    """
    received = _State.received or number
    end(f"{LINES[received]}; {AGAIN}", CODES[received])


def end(line: str, code: int) -> NoReturn:
    """Print the line to where stderr goes, and end."""
    mute()
    _end_processes()
    _print_line(line)
    _exit(code)


def _end_processes() -> None:
    for end_processes in tuple(_ending):
        with contextlib.suppress(Exception):
            end_processes()


def _print_line(line: str) -> None:
    out = _State.terminal if _State.terminal is not None else 2
    with contextlib.suppress(OSError):
        cursor = "\r\x1b[?25h\x1b[K" if os.isatty(out) else ""  # a bar hides it
        os.write(out, f"{cursor}{line}\n".encode())


def _exit(code: int) -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


@contextlib.contextmanager
def while_ray_starts() -> Iterator[None]:
    """Nothing of what Ray's core writes to the terminal itself; what goes wrong comes as an exception all the same.

    And SIGTERM, which `ray.init` takes from its first moment on to call `sys.exit`, is ours again.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        _to_nowhere(2)
        yield
    except SystemExit as error:
        if is_ray_terminated(error):
            _on_signal(signal.SIGTERM, None)
        raise
    finally:
        if _State.ours:
            take_signals()
        if not is_interrupted():
            os.dup2(kept, 2)
        os.close(kept)


def mute() -> None:
    """From now on stderr gets the last line alone: Ray's core, its threads and its libraries complain at any end."""
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(OSError):
        _to_nowhere(2)


def _to_nowhere(stream: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream)
    os.close(nowhere)


def _on_signal(number: int, frame: FrameType | None) -> None:
    again, _State.received = _State.received, signal.Signals(number)
    if again is not None or not _State.catching:
        _State.received = again or _State.received
        end_by_signal()
    mute()
    os.write(_State.alarm, b"!")
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _end_if_closing_hangs(reading: int) -> None:
    came = os.read(reading, 1)
    os.close(reading)
    if came:
        time.sleep(CLOSING_SECONDS)
        end_by_signal()


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
