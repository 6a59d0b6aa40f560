"""A trial that costs nothing, in a module that imports little: every failure of a trial costs Ray a new process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from sadm_ray.tune.sampling_space import point_of


def quality(point: dict[str, Any]) -> float:
    return point["num_steps"] * 0.1 - point["guidance_scale"]


def trial(config: dict[str, Any], broken: int, attempts: Path, rungs: Sequence[int]) -> None:
    """A trial whose score follows from its point; with `broken` steps it raises."""
    point = point_of(config)
    with attempts.open("a") as lines:
        lines.write(f"{point['num_steps']}\n")
    for subjects in rungs:
        if point["num_steps"] == broken and subjects > 2:
            raise RuntimeError("no such luck")
        tune.report({"gain": quality(point), "network_calls": point["num_steps"], "subjects": subjects, "seconds": 1.0})
