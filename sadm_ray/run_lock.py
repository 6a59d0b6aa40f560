"""One command at a time in a folder: the others are told who is at work in it, and since when.

The lock is the kernel's (`flock`): it ends with its process, however that ends. A URL has none, nor has a
file system without locks.
"""

from __future__ import annotations

import datetime
import fcntl
import getpass
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sadm_ray.config import is_url
from sadm_ray.errors import ConfigError

log = logging.getLogger(__name__)

LOCK = ".lock"
"""The lock's file in the folder, with who holds it as JSON; it is there as long as somebody does."""

_held: dict[Path, int] = {}
"""The thread of this process that holds a folder: its steps may enter it again."""


@contextmanager
def alone_in(folder: Path | str, key: str) -> Iterator[None]:
    """No other command works in the folder while the block runs.

    Args:
        folder: is made if it is missing, and removed again if nothing is in it at the end; a URL is not locked.
        key: the setting that names it, for the message.

    Raises:
        ConfigError: somebody else does.
    """
    if is_url(str(folder)):
        yield
        return
    place = Path(folder).expanduser().absolute()
    if _held.get(place) == threading.get_ident():
        yield
        return
    is_new = not place.exists()
    place.mkdir(parents=True, exist_ok=True)
    stream = _lock(place / LOCK, key)
    _held[place] = threading.get_ident()
    try:
        yield
    finally:
        _held.pop(place, None)  # without locks, another thread may have been let in
        if stream is not None:
            (place / LOCK).unlink(missing_ok=True)
            stream.close()
        if is_new:
            with suppress(OSError):
                place.rmdir()  # nothing came of it


def _lock(file: Path, key: str) -> IO[str] | None:
    """The open, locked file; None where there are no locks."""
    while True:
        try:
            stream = file.open("a+", encoding="utf-8")
        except OSError as error:  # a folder that is only read, or a full disk: what writes there says so itself
            log.debug("%s: no lock (%s)", file, error)
            return None
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(stream)
            stream.close()
            raise ConfigError(
                f"{key}: {file.parent} is in use: {holder}; wait until that has ended, or take another {key}"
            ) from None
        except OSError as error:
            log.debug("%s: no lock (%s)", file, error)
            stream.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                break
        stream.close()  # its holder removed it meanwhile: the next try makes a new one
    with suppress(OSError):  # a full disk: then nobody is told who it is
        stream.truncate(0)
        json.dump(_me(), stream)
        stream.flush()
    return stream


def _me() -> dict[str, str | int]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        user = str(os.getuid())
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
    return {"command": command, "user": user, "host": socket.gethostname(), "pid": os.getpid(), "since": now}


def _holder(stream: IO[str]) -> str:
    try:
        stream.seek(0)
        who = json.load(stream)
        return (
            f"`{who['command']}` of {who['user']} on {who['host']}, process {who['pid']}, is at work there since "
            f"{who['since']}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another command is at work there"
