"""Passes forward and backward, measured in a process of their own that has nothing else in memory."""

from __future__ import annotations

import contextlib
import errno
import importlib
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.nn.utils import convert_conv3d_weight_memory_format
from torch.utils.flop_counter import FlopCounterMode

from sadm_ray.cluster import WORKER_ENVIRONMENT
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

_QUESTIONS = 256
"""How many questions are drawn to find usual ones, for the time, and the largest, for the memory."""

_LONG = 1.5
"""Seconds: after a pass that takes so long, no larger micro-batch is measured."""


@dataclass
class StepProfile:
    """What was seen of passes on 1 sample, on 2, and on more if quick.

    Attributes:
        device: where, such as `cpu`.
        precision: what its products were computed in.
        seconds: by how many samples the pass was on, each with as many observed frames as is usual.
        peak: bytes, by the same, of samples with as many observed frames as there may be; of the whole process on a
            CPU, of what PyTorch has allocated on a GPU. Weights, gradients, averages and optimizer state are in it,
            whole.
        update_seconds: of one optimizer step with the averages.
        flops: of a usual sample forward and backward, in multiplications and additions.
        too_many: so many samples did not fit the memory of this machine; none: all did.
    """

    device: str
    precision: str
    seconds: dict[int, float] = field(default_factory=dict)
    peak: dict[int, float] = field(default_factory=dict)
    update_seconds: float = 0.0
    flops: float = 0.0
    too_many: int | None = None


def profile_step(
    settings: Settings, config: ModelConfig, frames: int, most: int, *, smaller: bool = True
) -> StepProfile:
    """Take passes on 1, 2, 4, … and at last `most` samples; without `smaller`, on those alone.

    Raises:
        RuntimeError: the process died, and not for want of memory.
    """
    sizes = sorted({min(1 << power, most, _QUESTIONS) for power in range(most.bit_length() + 1)})
    sizes = sizes if smaller else sizes[-1:]
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, settings, config, frames, sizes), daemon=True)
    with _worker_environment():
        process.start()
    sender.close()  # or the end of the process would not be seen here
    measured = StepProfile("cpu", "")
    try:
        with contextlib.suppress(EOFError):
            while True:
                measured = receiver.recv()
        process.join()
    finally:
        process.kill()
    if process.exitcode in (errno.ENOMEM, -signal.SIGKILL):  # the latter is how Linux ends what wants too much memory
        measured.too_many = sizes[len(measured.seconds)]
    elif process.exitcode:
        raise RuntimeError(f"measuring ended with code {process.exitcode}")
    return measured


def _measure(sender: Connection, settings: Settings, config: ModelConfig, frames: int, sizes: Sequence[int]) -> None:
    """Send what is known so far after each size: no more may come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this
    with contextlib.suppress(OSError):  # where memory runs out, Linux is to end this process and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    importlib.import_module("sadm_ray.train.worker_loop")  # a worker has Ray and all else of it in memory too
    train = settings.train
    device = torch.device("cuda" if train.device != "cpu" and torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1) if device.type == "cpu" else torch.set_float32_matmul_precision("high")
    name = "cpu" if device.type == "cpu" else f"cuda {torch.cuda.get_device_name(device)}"
    narrow = isinstance(autocast(device, train.precision), torch.autocast)
    measured = StepProfile(name, "bfloat16" if narrow else "float32")
    sender.send(measured)
    try:
        passes = _Passes(settings, config, frames, device)
        measured.flops, measured.update_seconds = passes.flops(), passes.update()
        for samples in sizes:
            measured.peak[samples] = passes.peak(samples)  # the larger pass first: what it leaves is there in any case
            measured.seconds[samples] = passes.seconds(samples)
            sender.send(measured)
            if samples > 1 and measured.seconds[samples] > _LONG:
                break
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(errno.ENOMEM)


class _Passes:
    """Passes forward and backward as a worker takes them, on random volumes; gradients are kept and added up."""

    def __init__(self, settings: Settings, config: ModelConfig, frames: int, device: torch.device) -> None:
        self.settings, self.config, self.frames, self.device = settings.train, config, frames, device
        bare = build_model(config).to(device)
        convert_conv3d_weight_memory_format(bare, torch.channels_last_3d)  # as workers do
        bare.recompute_activations(self.settings.recompute_activations)
        self.train_state = TrainState(bare, self.settings)
        self.usual, self.largest = _questions(settings, frames, device)

    def flops(self) -> float:
        with FlopCounterMode(display=False) as counter:
            self._take(self.usual, 1)
        return float(counter.get_total_flops())

    def update(self) -> float:
        """Seconds of the second update: the first makes the optimizer's state."""
        for _ in range(2):
            begun = self._now()
            self.train_state.clip(self.settings.clip_norm)
            self.train_state.update(learning_rate(0, self.settings))
        return self._now() - begun

    def peak(self, samples: int) -> int:
        self._take(self.largest, samples)
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _peak_of_process()

    def seconds(self, samples: int) -> float:
        """The shortest of some, which others on this machine disturbed the least."""
        taken: list[float] = []
        while len(taken) < 2 or (len(taken) < 20 and sum(taken) < 2.0):
            begun = self._now()
            self._take(self.usual, samples)
            taken.append(self._now() - begun)
        return min(taken)

    def _take(self, rng: SampleRng, samples: int) -> None:
        batch = self._batch(samples)
        size = self.train_state.bare.noise_size(batch.frames.shape[-3:])
        losses, _ = sample_losses(self.train_state.model, size, batch, rng.part(slice(samples)), self.settings)
        losses.sum().backward()

    def _batch(self, samples: int) -> Batch:
        def covariates(of: str, *size: int) -> torch.Tensor | None:
            count = sum(each.of == of for each in self.config.model.covariates)
            return torch.zeros(*size, count, device=self.device) if count else None

        return Batch(
            torch.rand(samples, self.frames, self.config.channels, *self.config.shape, device=self.device),
            torch.ones(samples, self.frames, dtype=torch.bool, device=self.device),
            torch.linspace(0.0, 1.0, self.frames, device=self.device).expand(samples, self.frames),
            covariates("subject", samples),
            covariates("visit", samples, self.frames),
        )

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _questions(settings: Settings, frames: int, device: torch.device) -> tuple[SampleRng, SampleRng]:
    """Chances whose first questions observe as many frames as is usual, and as many as any of the questions drawn.

    Only observed frames are encoded, so that one sample can cost several times what another does.
    """
    train, drawn = settings.train, SampleRng(settings.seed, 0, range(_QUESTIONS), _QUESTIONS)
    present = torch.ones(_QUESTIONS, frames, dtype=torch.bool)
    observed = draw_target(present, drawn, train.imputation, train.single_frame).observed.sum(dim=1).float()
    usual = (observed - observed.mean()).abs().argsort(stable=True)
    largest = observed.argsort(descending=True, stable=True)
    first, second = (SampleRng(settings.seed, 0, order.tolist(), _QUESTIONS, device) for order in (usual, largest))
    return first, second


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """For a process that is started: glibc reads its part before Python runs."""
    before = {key: os.environ.get(key) for key in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def _peak_of_process() -> int:
    """Bytes. Linux passes `ru_maxrss` on to a process that is started, so that the parent's memory would be in it."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) << 10 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
