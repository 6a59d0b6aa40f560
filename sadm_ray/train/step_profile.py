"""Profiles a training step: forward and backward passes, in a fresh process with nothing else in memory."""

from __future__ import annotations

import contextlib
import errno
import importlib
import multiprocessing
import re
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.nn.utils import convert_conv3d_weight_memory_format
from torch.utils.flop_counter import FlopCounterMode

from sadm_ray.cluster import WORKER_ENVIRONMENT, environment
from sadm_ray.config import Settings
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.data.load.target_sampling import draw_target
from sadm_ray.model.mixed_precision import autocast
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.registry import build_model
from sadm_ray.train.learning_rate_schedule import learning_rate
from sadm_ray.train.out_of_memory import is_out_of_memory
from sadm_ray.train.train_state import TrainState
from sadm_ray.train.train_step import Batch, sample_losses

_TARGET_DRAWS = 256
"""Targets drawn to find a usual one, for the time, and the one with most observed frames, for the memory."""

_SLOW_SECONDS = 1.5
"""After a pass that takes longer, no larger micro-batch is measured."""


@dataclass
class StepProfile:
    """Time and memory of passes on 1 sample, on 2, and on more if they are quick.

    Attributes:
        device: such as `cpu`.
        precision: of matrix products.
        seconds: by number of samples, each with a usual number of observed frames.
        peak: bytes by number of samples, each with the most observed frames that were drawn: of the whole process on a
            CPU, of PyTorch's allocations on a GPU. Includes whole weights, gradients, averages and optimizer state.
        update_seconds: of one optimizer step and the update of the averages.
        flops: multiplications and additions of a usual sample, forward and backward.
        too_many: number of samples that did not fit the memory of this machine; none: all did.
    """

    device: str
    precision: str
    seconds: dict[int, float] = field(default_factory=dict)
    peak: dict[int, float] = field(default_factory=dict)
    update_seconds: float = 0.0
    flops: float = 0.0
    too_many: int | None = None


def profile_step(
    settings: Settings, config: ModelConfig, frames: int, micro_batch: int, *, smaller: bool = True
) -> StepProfile:
    """Measure passes on 1, 2, 4, … and at last `micro_batch` samples; without `smaller`, on the last alone.

    Raises:
        RuntimeError: the process died for another reason than lack of memory.
    """
    sizes = sorted({min(1 << power, micro_batch, _TARGET_DRAWS) for power in range(micro_batch.bit_length() + 1)})
    sizes = sizes if smaller else sizes[-1:]
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, settings, config, frames, sizes), daemon=True)
    with environment(WORKER_ENVIRONMENT):  # before the process begins: glibc reads its part before Python runs
        process.start()
    sender.close()  # else the end of the process would not be seen here
    profile = StepProfile("cpu", "")
    try:
        with contextlib.suppress(EOFError):
            while True:
                profile = receiver.recv()
        process.join()
    finally:
        process.kill()
    if process.exitcode in (errno.ENOMEM, -signal.SIGKILL):  # the latter is Linux's out-of-memory killer
        profile.too_many = sizes[len(profile.seconds)]
    elif process.exitcode:
        raise RuntimeError(f"measuring ended with code {process.exitcode}")
    return profile


def _measure(sender: Connection, settings: Settings, config: ModelConfig, frames: int, sizes: Sequence[int]) -> None:
    """Send the profile after every size, since the process may die at the next one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    with contextlib.suppress(OSError):  # if memory runs out, Linux shall end this process and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    importlib.import_module("sadm_ray.train.worker_loop")  # as a worker does, to have Ray and all else in memory
    train = settings.train
    device = torch.device("cuda" if train.device != "cpu" and torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1) if device.type == "cpu" else torch.set_float32_matmul_precision("high")
    name = "cpu" if device.type == "cpu" else f"cuda {torch.cuda.get_device_name(device)}"
    narrow = isinstance(autocast(device, train.precision), torch.autocast)
    profile = StepProfile(name, "bfloat16" if narrow else "float32")
    sender.send(profile)
    try:
        passes = _Passes(settings, config, frames, device)
        profile.flops, profile.update_seconds = passes.flops(), passes.update()
        for samples in sizes:
            profile.peak[samples] = passes.peak(samples)  # the larger pass first, since its memory is not given back
            profile.seconds[samples] = passes.seconds(samples)
            sender.send(profile)
            if samples > 1 and profile.seconds[samples] > _SLOW_SECONDS:
                break
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(errno.ENOMEM)


class _Passes:
    """Forward and backward passes as a worker does them, on random volumes; gradients accumulate."""

    def __init__(self, settings: Settings, config: ModelConfig, frames: int, device: torch.device) -> None:
        self.settings, self.config, self.frames, self.device = settings.train, config, frames, device
        bare = build_model(config).to(device)
        convert_conv3d_weight_memory_format(bare, torch.channels_last_3d)  # as workers do
        bare.recompute_activations(self.settings.recompute_activations)
        self.train_state = TrainState(bare, self.settings)
        self.usual, self.largest = _usual_and_largest(settings, frames, device)

    def flops(self) -> float:
        with FlopCounterMode(display=False) as counter:
            self._forward_backward(self.usual, 1)
        return float(counter.get_total_flops())

    def update(self) -> float:
        """Seconds of the second update: the first one allocates the optimizer state."""
        for _ in range(2):
            start = self._now()
            self.train_state.clip(self.settings.clip_norm)
            self.train_state.update(learning_rate(0, self.settings))
        return self._now() - start

    def peak(self, samples: int) -> int:
        self._forward_backward(self.largest, samples)
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _peak_of_process()

    def seconds(self, samples: int) -> float:
        """The shortest of several passes: the one least disturbed by other processes."""
        taken: list[float] = []
        while len(taken) < 2 or (len(taken) < 20 and sum(taken) < 2.0):
            start = self._now()
            self._forward_backward(self.usual, samples)
            taken.append(self._now() - start)
        return min(taken)

    def _forward_backward(self, rng: SampleRng, samples: int) -> None:
        batch = self._batch(samples)
        size = self.train_state.bare.noise_size(batch.frames.shape[-3:])
        losses, _ = sample_losses(self.train_state.model, size, batch, rng.subset(slice(samples)), self.settings)
        losses.sum().backward()

    def _batch(self, samples: int) -> Batch:
        def covariates(of: str, *size: int) -> torch.Tensor | None:
            count = sum(each.of == of for each in self.config.model.covariates)
            return torch.zeros(*size, count, device=self.device) if count else None

        is_planned = any(each.planned for each in self.config.model.covariates)
        return Batch(
            torch.rand(samples, self.frames, self.config.channels, *self.config.shape, device=self.device),
            torch.ones(samples, self.frames, dtype=torch.bool, device=self.device),
            torch.linspace(0.0, 1.0, self.frames, device=self.device).expand(samples, self.frames),
            covariates("subject", samples),
            covariates("visit", samples, self.frames),
            planned=covariates("visit", samples, self.frames) if is_planned else None,
        )

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _usual_and_largest(settings: Settings, frames: int, device: torch.device) -> tuple[SampleRng, SampleRng]:
    """Random numbers whose first samples observe a usual number of frames, and the largest number drawn.

    Only observed frames are encoded, so that one sample can cost several times as much as another.
    """
    train, drawn = settings.train, SampleRng(settings.seed, 0, range(_TARGET_DRAWS), _TARGET_DRAWS)
    present = torch.ones(_TARGET_DRAWS, frames, dtype=torch.bool)
    observed = draw_target(present, drawn, train.imputation, train.single_frame).observed.sum(dim=1).float()
    usual = (observed - observed.mean()).abs().argsort(stable=True)
    largest = observed.argsort(descending=True, stable=True)
    first, second = (SampleRng(settings.seed, 0, order.tolist(), _TARGET_DRAWS, device) for order in (usual, largest))
    return first, second


def _peak_of_process() -> int:
    """Bytes. Not `ru_maxrss` on Linux: a new process inherits it, so that it would include the parent's memory."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) << 10 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
