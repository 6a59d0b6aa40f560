"""Settings that had another name once: files, models and runs that still have the old name go on working."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sadm_ray.errors import ConfigError

log = logging.getLogger(__name__)

RENAMED = {
    "model.guess": "model.prior",
    "model.blend": "model.frame_blending",
    "train.single": "train.single_frame",
    "tune.of": "tune.sweep",
}
"""Old name → name, both dotted from the top of the tree."""

LATER = ("chosen_on", "start_from")
"""Settings of training that came later and are mostly empty: left out of what is hashed while they are."""

_SPACE = "tune.training.space."
"""The keys below it are names of settings themselves."""


def current_name(key: str, renamed: Mapping[str, str] = RENAMED) -> str:
    """The name that a dotted key has now; a key below a renamed section moves with it."""
    for old, new in renamed.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def with_current_names(tree: Mapping[str, Any], source: str = "", below: str = "") -> dict[str, Any]:
    """A tree of settings, nested as in a file, with every old name replaced.

    Args:
        source: where it was read. If given, one line of the log says which names are old.
        below: the dotted name of the section that the tree is; none: the top.

    Raises:
        ConfigError: the tree has a setting under both names.
    """
    seen: dict[str, str] = {}
    current = _with_names(tree, RENAMED, f"{below}." if below else "", seen)
    _log(source, seen)
    return current


def override_with_current_name(key: str, value: Any, source: str) -> tuple[str, Any]:
    """The same for one dotted key and its value, which may be a section."""
    name = current_name(key)
    if name != key:
        _log(source, {key: name})
    return name, with_current_names(value, source, name) if isinstance(value, Mapping) else value


def with_former_names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse: what names of folders are hashed from, so that they stay what they were."""
    named = _with_names(tree, {new: old for old, new in RENAMED.items()}, "", {})
    if "train" in named:
        named["train"] = {key: value for key, value in named["train"].items() if key not in LATER or value}
    return named


def _with_names(
    tree: Mapping[str, Any], renamed: Mapping[str, str], prefix: str, seen: dict[str, str]
) -> dict[str, Any]:
    """`seen` is given every name that was replaced, and what it is called instead."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        above = "" if prefix == _SPACE else prefix
        full = f"{above}{key}"
        name = current_name(full, renamed)
        short = name.removeprefix(above) if name != full else key
        if short != key:
            if short in tree:
                raise ConfigError(f"{full}: is called {name} now, and both are given; remove one of them")
            seen[full] = name
        is_section = isinstance(value, Mapping) and prefix != _SPACE
        found[short] = _with_names(value, renamed, f"{name}.", seen) if is_section else value
    return found


def _log(source: str, seen: Mapping[str, str]) -> None:
    if source and seen:
        names = ", ".join(f"{old} is {name}" for old, name in seen.items())
        log.warning("%s: %s now; old names still work", source, names)
