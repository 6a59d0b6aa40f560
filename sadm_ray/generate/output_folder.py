"""Where generated volumes may be written: never over or into what a run is made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sadm_ray.config import is_url
from sadm_ray.errors import ConfigError
from sadm_ray.generate.generation_plan import place_of

_DERIVATIVES = "derivatives"
"""The folder of a BIDS study that is meant for results; no scan is looked for in it."""


def refuse_out(out: str, places: Mapping[str, str], run_dir: Path) -> None:
    """Refuse an output folder whose files would mix with others.

    Args:
        out: `generate.out`.
        places: folders, files or URLs that it must neither lie in, nor be, nor hold, by what they are called.
        run_dir: the run's folder, in which it may lie.

    Raises:
        ConfigError: it names the folder, what is there, and the mend.
    """
    here = place_of(out)
    if not is_url(here) and Path(here).is_file():
        raise _refusal(out, "is a file")
    for name, place in {"the run's folder": str(run_dir), **places}.items():
        there = place_of(place)
        if here == there:
            raise _refusal(out, f"is {name}")
        if _lies_in(there, here):
            raise _refusal(out, f"holds {name}")
        if place != str(run_dir) and _lies_in(here, there) and not _lies_in(here, f"{there}/{_DERIVATIVES}"):
            raise _refusal(out, f"lies in {name}")


def _lies_in(inner: str, outer: str) -> bool:
    return inner.startswith(outer.rstrip("/") + "/")


def _refusal(out: str, what: str) -> ConfigError:
    return ConfigError(f"generate.out: {out} {what}; take a folder of its own")
