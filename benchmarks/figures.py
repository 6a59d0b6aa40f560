"""How a benchmark says what it measured: one JSON line a figure."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from typing import Literal


def say(figure: str, value: float, unit: str, better: Literal["higher", "lower"], reach: float | None = None) -> None:
    """Print a figure; `reach` is what it should come to, none where nothing was set."""
    line = {"figure": figure, "value": float(f"{value:.4g}"), "unit": unit, "reach": reach, "better": better}
    print(json.dumps(line, ensure_ascii=False), flush=True)


def cpu_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The least CPU time of one call after a warm-up, all threads together: what else runs here only adds to it."""
    work()
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return min(spent)


def peak_gb() -> float:
    """The most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
