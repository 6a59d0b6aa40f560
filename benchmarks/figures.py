"""Output of benchmarks: one JSON line per figure."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from typing import Literal


def say(figure: str, value: float, unit: str, better: Literal["higher", "lower"], reach: float | None = None) -> None:
    """Print a figure; `reach` is its target value, if there is one."""
    line = {"figure": figure, "value": float(f"{value:.4g}"), "unit": unit, "reach": reach, "better": better}
    print(json.dumps(line, ensure_ascii=False), flush=True)


def cpu_seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """The lowest CPU time of one call after a warm-up, all threads together; other processes can only add to it."""
    function()
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        spent.append(time.process_time() - start)
    return min(spent)


def peak_gb() -> float:
    """The peak memory of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
