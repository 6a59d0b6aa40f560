"""What is recorded of the steps: losses by noise level, speed, waiting, memory; for all workers together."""

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
    """Names for the parts of the noise levels t, from clean to noise."""
    return [f"{what}/noise_{part / LEVELS:g}-{(part + 1) / LEVELS:g}" for part in range(LEVELS)]


def summed(tensor: Tensor, world: int) -> Tensor:
    """The sum over all workers, who all call this."""
    if world > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


class TrainMetrics:
    """Sums over the steps since the last record.

    Args:
        flops: of one sample, forward and backward; none where it was not counted.
    """

    def __init__(self, settings: TrainSettings, world: int, device: torch.device, flops: float | None) -> None:
        self._settings, self._world, self._device, self._flops = settings, world, device, flops
        self._process = psutil.Process(os.getpid())
        psutil.cpu_percent()  # the first call tells nothing: it begins to measure
        self._begin()

    def add(self, measured: StepResult, waited: float) -> None:
        """Take in a step, and how long (s) it waited for its batch; the device is not waited for.

        The losses of a step that was not used may be NaN: they count no more than its gradients.
        """
        self._waited += waited
        self._steps += 1
        if measured.used:
            part = (measured.t * LEVELS).long().clamp(0, LEVELS - 1)
            self._sums.index_add_(0, part, measured.losses.float())
            self._counts.index_add_(0, part, torch.ones_like(measured.t))
            self._norms.append(measured.grad_norm)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in the block is no training: its time does not count."""
        begun = time.monotonic()
        yield
        self._since += time.monotonic() - begun

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Training waits here for a checkpoint."""
        begun = time.monotonic()
        yield
        self._stalled += time.monotonic() - begun

    def record(self, step: int) -> dict[str, float]:
        """The means since the last record; all workers call this, and begin anew.

        Args:
            step: the last one that was done, counted from 0.
        """
        sums, counts = summed(torch.stack([self._sums, self._counts]), self._world).tolist()
        elapsed = time.monotonic() - self._since
        samples_per_second = self._steps * self._settings.batch_size / elapsed
        told = {
            "learning_rate": learning_rate(step, self._settings),
            "samples_per_second": samples_per_second,
            "data_wait_fraction": self._waited / elapsed,
            "checkpoint_stall_fraction": self._stalled / elapsed,
            **self._memory(),
        }
        if sum(counts):
            told["loss"] = sum(sums) / sum(counts)
            told["grad_norm"] = sum(self._norms) / len(self._norms)
            named = zip(level_names("losses"), sums, counts, strict=True)
            told |= {name: total / count for name, total, count in named if count}
        if self._flops is not None:
            told["tflops_per_second"] = samples_per_second * self._flops / 1e12
        self._begin()
        return told

    def _begin(self) -> None:
        self._sums, self._counts = torch.zeros(2, LEVELS, device=self._device)
        self._norms: list[float] = []
        self._waited = self._stalled = 0.0
        self._steps, self._since = 0, time.monotonic()

    def _memory(self) -> Mapping[str, float]:
        """Of this worker's process and machine, some by the names under which MLflow shows system metrics."""
        machine = psutil.virtual_memory()
        told = {
            "memory/process_gb": self._process.memory_info().rss / 1e9,
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": machine.used / 1e6,
            "system/system_memory_usage_percentage": machine.percent,
        }
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            told["memory/gpu_peak_gb"] = torch.cuda.max_memory_allocated(self._device) / 1e9
            told["system/gpu_0_memory_usage_percentage"] = 100 * (1 - free / total)
        return told
