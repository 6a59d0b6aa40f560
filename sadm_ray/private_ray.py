"""A Ray of one command alone: a folder of its own, which goes with it, and the clusters that it must not be taken for.

`ray.init(address="auto")` joins any Ray whose processes it finds on the machine, also the private one of another
command, and dies with it. So we look ourselves: `ray start` writes the address into a file, `ray.init` does not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from sadm_ray.errors import ConfigError

PREFIX = "sadm-"
"""Of the folders: as short as can be, for the sake of the sockets below them."""

_SOCKET_BYTES = 107  # of the path of a Unix socket; on a Mac 103
_LONGEST_BELOW = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
_OWNER = "owner"
_SHORT = Path("/tmp")  # noqa: S108
_KEPT_SECONDS = 86400.0
"""How long the folder of a Ray is kept whose command was killed: its logs may tell why."""


def started_cluster() -> str | None:
    """The address of the cluster that `ray start` began or joined on this machine, and whose raylet still runs."""
    found: dict[str, tuple[bool, float, str]] = {}
    for process in psutil.process_iter(["name", "cmdline", "create_time"]):
        if process.info["name"] != "raylet":
            continue
        options = dict(part.removeprefix("--").split("=", 1) for part in process.info["cmdline"] or () if "=" in part)
        address, folder = options.get("gcs-address"), options.get("temp_dir")
        if address and folder and recorded_cluster(Path(folder)) == address:
            usual = Path(folder) == _base() / "ray"
            found[address] = (usual, process.info["create_time"], address)
    return max(found.values())[-1] if found else None


def recorded_cluster(folder: Path | None = None) -> str | None:
    """The address that the last `ray start` of this machine wrote into a temporary folder of Ray, dead or alive."""
    try:
        return ((folder or _base() / "ray") / "ray_current_cluster").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for the sockets and logs of a private Ray, removed at the end.

    Those that killed commands left behind are removed after a day. The owner holds a lock, which ends with its process.

    Raises:
        ConfigError: the path would be too long for Ray's sockets, or the folder cannot be made.
    """
    base = _base()
    if _longest(base) > _SOCKET_BYTES:
        if os.environ.get("RAY_TMPDIR"):
            raise ConfigError(
                f"RAY_TMPDIR: '{base}' is too long for Ray's sockets, whose paths would have {_longest(base)} of at "
                f"most {_SOCKET_BYTES} bytes; set it to a shorter folder"
            )
        base = _SHORT  # TMPDIR was not set with Ray in mind: a batch system's is often deep
    _remove_abandoned(base)
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        lock = (folder / _OWNER).open("w")
    except OSError as error:
        raise ConfigError(
            f"RAY_TMPDIR: no folder for Ray can be made in '{base}' ({error.strerror}); set it to another"
        ) from None
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(base: Path) -> None:
    """Remove the folders of commands that are no more, a day after they were last written to."""
    for folder in base.glob(f"{PREFIX}????????"):
        owner = folder / _OWNER
        try:
            if owner.stat().st_uid != os.getuid() or time.time() - owner.stat().st_mtime < _KEPT_SECONDS:
                continue
            with owner.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # it is in use, or another command removes it


def _longest(base: Path) -> int:
    """Bytes of the longest path of a socket below it."""
    return len(os.fsencode(base)) + len(f"/{PREFIX}12345678") + _LONGEST_BELOW


def _base() -> Path:
    """Where Ray, too, keeps its temporary folder."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or _SHORT)
