"""Which MLflow run each key is: `tracking.json` in the run's folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
IDS = "tracking.json"


class RunIds:
    """Key → MLflow run id, of one store. With another store a run begins anew."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder, self._uri = folder, uri
        self._unwritten: dict[str, Any] | None = None

    def known(self) -> dict[str, str]:
        """All ids."""
        ids: dict[str, str] = self._read().get("ids", {})
        return ids

    def mark(self, key: str) -> str:
        """The tag by which a run is found in MLflow when its id is not known here: the driver was killed just after
        making the run, or the answer was lost.
        """
        kept = self._read()
        if "token" not in kept:
            kept["token"] = uuid.uuid4().hex
            self._write(kept)
        return hashlib.sha256(f"{kept['token']}/{key}".encode()).hexdigest()[:32]

    def set(self, key: str, run: str | None) -> None:
        """Keep the id of a key; `None` forgets it."""
        kept = self._read()
        ids = {name: kept_id for name, kept_id in kept.get("ids", {}).items() if name != key}
        if run is None:
            kept["token"] = uuid.uuid4().hex  # the run that bore the old mark is gone
        else:
            ids[key] = run
        self._write({**kept, "ids": ids})

    def forget(self) -> None:
        """Forget all: what is recorded from now on goes to new runs."""
        self._write({"token": uuid.uuid4().hex})

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process makes runs of this folder in the block."""
        with ExitStack() as stack:
            try:
                folder = self._folder / "tracking"
                folder.mkdir(parents=True, exist_ok=True)
                fcntl.flock(stack.enter_context((folder / "lock").open("w")), fcntl.LOCK_EX)
            except OSError as error:  # a full disk, or a file system without locks: then there is none
                log.debug("%s: no lock (%s)", self._folder, error)
            yield

    def _read(self) -> dict[str, Any]:
        if self._unwritten is not None:
            return dict(self._unwritten)
        try:
            kept = json.loads((self._folder / IDS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) and kept.get("uri") == self._uri else {}

    def _write(self, kept: Mapping[str, Any]) -> None:
        kept = {"uri": self._uri, "ids": {}, **kept}
        file = self._folder / IDS
        new = file.with_suffix(".new")
        try:
            new.write_text(json.dumps(kept, indent=2), encoding="utf-8")
            new.replace(file)
        except OSError as error:
            if self._unwritten is None:
                log.warning("%s cannot be written (%s); the next command begins a new MLflow run", file, error)
            self._unwritten = kept
