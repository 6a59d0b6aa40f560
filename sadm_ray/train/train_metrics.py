"""Training metrics of all workers together: losses by noise level, throughput, waiting, memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping

import psutil
import torch
from torch import Tensor

from sadm_ray.config import TrainSettings
from sadm_ray.train.learning_rate_schedule import learning_rate
from sadm_ray.train.train_step import LEVELS, StepResult


def level_names(what: str) -> list[str]:
    """Metric names of the ranges of the noise level t, from clean to noise."""
    return [f"{what}/noise_{part / LEVELS:g}-{(part + 1) / LEVELS:g}" for part in range(LEVELS)]


def sum_over_workers(tensor: Tensor, world: int) -> Tensor:
    """The sum over all workers (all-reduce); all of them call it."""
    if world > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


class TrainMetrics:
    """Averages metrics over the steps since the last record.

    Args:
        flops: of one sample, forward and backward; none: not counted.
    """

    def __init__(self, settings: TrainSettings, world: int, device: torch.device, flops: float | None) -> None:
        self._settings, self._world, self._device, self._flops = settings, world, device, flops
        self._process = psutil.Process(os.getpid())
        psutil.cpu_percent()  # the first call only starts the measurement
        self._reset()

    def add(self, result: StepResult, waited: float) -> None:
        """Add a step that waited so many seconds for its batch. Does not synchronise with the device.

        The losses of a skipped step may be NaN and are left out.
        """
        self._waited += waited
        self._steps += 1
        if result.used:
            part = (result.t * LEVELS).long().clamp(0, LEVELS - 1)
            self._sums.index_add_(0, part, result.losses.float())
            self._counts.index_add_(0, part, torch.ones_like(result.t))
            self._norms.append(result.grad_norm)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time spent in this block does not count as training."""
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """The time spent in this block counts as waiting for a checkpoint."""
        start = time.monotonic()
        yield
        self._stalled += time.monotonic() - start

    def record(self, step: int) -> dict[str, float]:
        """The means since the last record, which are then reset; all workers call it.

        Args:
            step: the last one done, counted from 0.
        """
        sums, counts = sum_over_workers(torch.stack([self._sums, self._counts]), self._world).tolist()
        elapsed = time.monotonic() - self._since
        samples_per_second = self._steps * self._settings.batch_size / elapsed
        metrics = {
            "learning_rate": learning_rate(step, self._settings),
            "samples_per_second": samples_per_second,
            "data_wait_fraction": self._waited / elapsed,
            "checkpoint_stall_fraction": self._stalled / elapsed,
            **self._memory(),
        }
        if sum(counts):
            metrics["loss"] = sum(sums) / sum(counts)
            metrics["grad_norm"] = sum(self._norms) / len(self._norms)
            named = zip(level_names("losses"), sums, counts, strict=True)
            metrics |= {name: total / count for name, total, count in named if count}
        if self._flops is not None:
            metrics["tflops_per_second"] = samples_per_second * self._flops / 1e12
        self._reset()
        return metrics

    def _reset(self) -> None:
        self._sums, self._counts = torch.zeros(2, LEVELS, device=self._device)
        self._norms: list[float] = []
        self._waited = self._stalled = 0.0
        self._steps, self._since = 0, time.monotonic()

    def _memory(self) -> Mapping[str, float]:
        """Memory and CPU of this worker's process and machine; some under the names of MLflow's system metrics."""
        machine = psutil.virtual_memory()
        metrics = {
            "memory/process_gb": self._process.memory_info().rss / 1e9,
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": machine.used / 1e6,
            "system/system_memory_usage_percentage": machine.percent,
        }
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            metrics["memory/gpu_peak_gb"] = torch.cuda.max_memory_allocated(self._device) / 1e9
            metrics["system/gpu_0_memory_usage_percentage"] = 100 * (1 - free / total)
        return metrics
