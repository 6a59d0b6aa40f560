"""A journal of JSON lines that stays readable after a crash."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class JsonLines:
    """Entries are only appended, each in one write; one that was cut short by a crash is skipped."""

    file: Path

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry and flush it to disk."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # The leading newline ends a line that was cut short.
        line = f"\n{json.dumps(entry)}\n".encode()
        with self.file.open("ab", buffering=0) as out:
            out.write(line)
            os.fsync(out.fileno())

    def entries(self) -> list[dict[str, Any]]:
        """All complete entries, the oldest first; none without a file."""
        try:
            lines = self.file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # empty, or cut short: the beginning of an object is not valid JSON
                continue
            found.append(entry)
        return found
