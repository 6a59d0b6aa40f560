"""Timing on a device: synchronised, after a warm-up, medians; a row that cannot be measured says why."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.figures import peak_gb, say
from sadm_ray.config import Settings
from sadm_ray.train.out_of_memory import is_out_of_memory

_WARM_UP, _FEWEST, _MOST, _SECONDS = 2, 3, 30, 4.0


@dataclass(frozen=True)
class DeviceRun:
    """What a part measures, and until when.

    Attributes:
        batches: numbers of samples.
        end: on the clock of `time.monotonic`; no row begins after it.
    """

    settings: Settings
    device: torch.device
    batches: tuple[int, ...]
    end: float

    def row(self, figure: str, measure: Callable[[], float]) -> float | None:
        """Print the milliseconds that `measure` returns; none where neither time nor memory suffice, which is printed.

        `peak_gb` is then that of the row.
        """
        if time.monotonic() >= self.end:
            say(figure, None, "ms", "lower", note="left out: no time (--seconds)")
            return None
        ms, note = None, ""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            ms = measure()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            note = "out of memory"
        say(figure, ms, "ms", "lower", note=note)
        gc.collect()  # what the traceback held, too
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return ms

    def milliseconds(self, function: Callable[[], object]) -> float:
        """The median of several calls after a warm-up."""
        for _ in range(_WARM_UP):
            function()
        taken: list[float] = []
        until = time.monotonic() + _SECONDS
        while len(taken) < _FEWEST or (len(taken) < _MOST and time.monotonic() < until):
            taken.append(self.once(function))
        return statistics.median(taken)

    def once(self, function: Callable[[], object]) -> float:
        """Milliseconds of one call, with all that it leaves the device to do."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            function()
            return (time.perf_counter() - start) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        begin.record()
        function()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def peak_gb(self) -> float:
        """The peak memory: of PyTorch's allocations on a GPU since the row began, else of this process."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else peak_gb()

    def matrix_rate(self) -> float:
        """FLOP/s of a large matrix product in bfloat16."""
        size = 8192 if self.device.type == "cuda" else 512
        a, b = torch.rand(2, size, size, device=self.device, dtype=torch.bfloat16)
        return 2 * size**3 / (self.milliseconds(lambda: a @ b) / 1e3)
