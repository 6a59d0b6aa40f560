"""Without a settings file the defaults are those of the phantom; visits in BIDS or a manifest need others.

Eight slots would drop all further visits of a subject, min–max follows its single brightest voxel, and visits of other
days have other gains. So what is general in `configs/brain.yaml` counts where nothing else is said.
"""

from __future__ import annotations

import logging
from typing import Any

from sadm_ray.config.presets import preset_file
from sadm_ray.config.typed_yaml import read_tree

log = logging.getLogger(__name__)

VISITS = "brain"
"""The packaged settings file for visits."""
_LAYOUTS = ("bids", "manifest")
_KEYS = (
    ("data", "frames"),
    ("data", "orientation"),
    ("data", "intensity", "method"),
    ("data", "intensity", "over"),
    ("data", "intensity", "within"),
    ("generate", "tasks"),
)


def fit_layout(tree: dict[str, Any]) -> None:
    """Put into the settings that were given (no file among them) what fits `data.layout` and was not given.

    One line of the log says what. With `generate.study` preparation is that of the model, and nothing is put.
    """
    data, generate = tree.get("data"), tree.get("generate", {})
    if not isinstance(data, dict) or not isinstance(generate, dict):
        return  # which is refused later
    file = preset_file(VISITS)
    if file is None or data.get("layout") not in _LAYOUTS or generate.get("study") is not None:
        return
    visits = read_tree(file.read_text(encoding="utf-8"))
    chosen = []
    for key in _KEYS:
        if key == ("generate", "tasks") and data["frames"] is not None:
            continue  # its tasks are for any number of visits, the phantom's for slots
        if _put_where_absent(tree, key, value := _get(visits, key)):
            chosen.append(".".join(key) + ("" if isinstance(value, list) else f"={'null' if value is None else value}"))
    if chosen:
        log.warning(
            "data.layout=%s without a settings file: %s taken from configs/%s.yaml, all else from the phantom; give "
            "--config %s, or a file of your own, for settings that are made for visits",
            *(data["layout"], ", ".join(chosen), VISITS, VISITS),
        )


def _get(tree: Any, key: tuple[str, ...]) -> Any:
    for part in key:
        tree = tree[part]
    return tree


def _put_where_absent(tree: dict[str, Any], key: tuple[str, ...], value: Any) -> bool:
    *sections, last = key
    for part in sections:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            return False
    if last in tree:
        return False
    tree[last] = value
    return True
