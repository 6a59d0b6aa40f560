"""Writes a phantom as a study: many subjects, each from its own random numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sadm_ray.config import PhantomSettings
from sadm_ray.data.phantom.brain import LABELS, write_brain, write_brain_tables
from sadm_ray.data.phantom.heart import write_heart
from sadm_ray.errors import DataError

MARKER = "phantom.json"
VERSION = 2

PHANTOM_LAYOUTS = {"heart": "acdc", "brain": "bids"}

_NAMES = {"heart": "patient{:03d}", "brain": "sub-{:03d}"}
_WRITERS = {"heart": write_heart, "brain": write_brain}


def write_phantom(root: Path, settings: PhantomSettings, seed: int) -> None:
    """Write `settings.subjects` subjects below `root`; nothing is done if the same phantom is already complete.

    A heart is written in ACDC's layout, a brain in BIDS, each with label maps. A subject depends on `seed` and its
    number only, so that a larger phantom contains the smaller one.

    Raises:
        DataError: `root` holds files that are not of a phantom.
    """
    expected = {"version": VERSION, "seed": seed, **settings.facts()}
    marker = root / MARKER
    if marker.exists():
        found = _read_marker(marker)
        if found == {**expected, "complete": True}:
            return
        for name in _NAMES.values():
            for number in range(1, found["subjects"] + 1):
                shutil.rmtree(root / name.format(number), ignore_errors=True)
        shutil.rmtree(root / LABELS, ignore_errors=True)
    elif root.exists() and any(root.iterdir()):
        raise DataError(f"{root}: not empty and not a phantom of ours; choose another folder or empty this one")
    root.mkdir(parents=True, exist_ok=True)
    # Marked before it is complete, so that an interrupted phantom is recognised and written again.
    marker.write_text(json.dumps({**expected, "complete": False}), encoding="utf-8")
    folders = [root / _NAMES[settings.kind].format(number) for number in range(1, settings.subjects + 1)]
    for number, folder in enumerate(folders, start=1):
        _WRITERS[settings.kind](folder, settings, [seed, number])
    if settings.kind == "brain":
        write_brain_tables(root, folders, seed)
        (root / ".bidsignore").write_text(f"/{MARKER}\n", encoding="utf-8")
    marker.write_text(json.dumps({**expected, "complete": True}), encoding="utf-8")


def _read_marker(marker: Path) -> dict[str, Any]:
    try:
        return {"subjects": 0, **json.loads(marker.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{marker}: cannot be read ({error}); remove {marker.parent} and run again") from None
