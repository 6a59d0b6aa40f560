"""Output of benchmarks: one JSON line per figure."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Figure:
    """What was measured.

    Attributes:
        value: none where nothing could be measured; `note` says why.
        unit: `1` for a ratio or a share.
        reach: its target value, if there is one.
    """

    figure: str
    value: float | None
    unit: str
    reach: float | None
    better: Better
    note: str = ""

    def tree(self) -> dict[str, str | float | None]:
        """As it is printed and recorded: without an empty note."""
        return {key: value for key, value in asdict(self).items() if key != "note" or value}


def say(
    figure: str, value: float | None, unit: str, better: Better, reach: float | None = None, note: str = ""
) -> None:
    """Print a figure; the arguments are those of `Figure`."""
    rounded = None if value is None else float(f"{value:.4g}")
    print(json.dumps(Figure(figure, rounded, unit, reach, better, note).tree(), ensure_ascii=False), flush=True)


def cpu_seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """The lowest CPU time of one call after a warm-up, all threads together; other processes can only add to it."""
    return side_by_side(function, repeats=repeats)[0]


def side_by_side(*functions: Callable[[], object], repeats: int = 3) -> list[float]:
    """The same of several functions that take turns: a machine that slows down slows all of them."""
    spent: list[list[float]] = [[] for _ in functions]
    for turn in range(1 + repeats):
        for function, seconds in zip(functions, spent, strict=True):
            start = time.process_time()
            function()
            if turn:
                seconds.append(time.process_time() - start)
    return [min(seconds) for seconds in spent]


def peak_gb() -> float:
    """The peak memory of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
