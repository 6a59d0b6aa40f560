"""A file of JSON lines that a sudden end cannot spoil: a sweep's memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class JsonLines:
    """Entries are only ever added, each with one write; one that was cut short by a sudden end is passed over."""

    file: Path

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; it survives the end of this process."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # The newline in front ends a line that was cut short.
        line = f"\n{json.dumps(entry)}\n".encode()
        with self.file.open("ab", buffering=0) as out:
            out.write(line)
            os.fsync(out.fileno())

    def entries(self) -> list[dict[str, Any]]:
        """All whole entries, the oldest first; none where there is no file."""
        try:
            lines = self.file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # empty, or cut short: no beginning of an object is one
                continue
            found.append(entry)
        return found
