"""What a training would be, before there is one: sizes from the settings, memory and time from a measured pass."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.nn.utils import convert_conv3d_weight_memory_format
from torch.utils.flop_counter import FlopCounterMode

from sadm_ray.cluster import WORKER_ENVIRONMENT
from sadm_ray.config import CovariateSettings, Settings, TrainSettings
from sadm_ray.data.chance import Chance
from sadm_ray.data.sequence import draw_question
from sadm_ray.data.storage import Storage
from sadm_ray.data.study import Study
from sadm_ray.model.precision import has_bfloat16
from sadm_ray.model.sadm import Sadm, SadmConfig
from sadm_ray.train.feed import epochs
from sadm_ray.train.launch import checkpoints_folder, model_config
from sadm_ray.train.learner import Learner, ema_name
from sadm_ray.train.memory import is_out_of_memory, too_large
from sadm_ray.train.standing import RUN, refuse_changes
from sadm_ray.train.step import Batch, learning_rate, sample_losses

ASSUMED_FRAMES = 16
"""Of a study that keeps all visits: how many is known from its shards alone, subject by subject."""

_ASSUMED_SCALE = 0.1
"""Any value does: it changes no size and no time."""

_QUESTIONS = 256
"""How many questions are drawn to find usual ones, for the time, and the largest, for the memory."""

_LONG = 1.5
"""Seconds: after a pass that takes so long, no larger micro-batch is measured."""


@dataclass(frozen=True)
class Measured:
    """What a process saw that did nothing but passes forward and backward, on 1 sample, on 2, and on more if quick.

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
    seconds: Mapping[int, float]
    peak: Mapping[int, float]
    update_seconds: float
    flops: float
    too_many: int | None = None


@dataclass(frozen=True)
class Estimate:
    """What a training would be. Sizes are in bytes and those of one worker, if nothing else is said.

    Attributes:
        study: as prepared, or as the settings alone tell (`prepared` is then false, and nobody is in it).
        frames: of a sequence.
        parameters: as `Sadm.describe` tells.
        micro_batch: samples that a worker takes at a time.
        location: where checkpoints would go.
    """

    settings: Settings
    study: Study
    prepared: bool
    frames: int
    parameters: Mapping[str, int]
    micro_batch: int
    location: str
    measured: Measured

    @property
    def share(self) -> int:
        """Samples of each batch that a worker has: the most that one has."""
        return _share(self.settings.train)

    @property
    def weights(self) -> float:
        """The weights."""
        return self._state(1)

    @property
    def gradients(self) -> float:
        """The gradients."""
        return self._state(1)

    @property
    def averages(self) -> float:
        """All averages of the weights."""
        return self._state(len(self.settings.train.ema_decays))

    @property
    def optimizer(self) -> float:
        """The two moments of AdamW."""
        return self._state(2)

    @property
    def state(self) -> float:
        """All of the four."""
        return self.weights + self.gradients + self.averages + self.optimizer

    @property
    def checkpoint(self) -> float:
        """One checkpoint on disk, which is whole however training is spread."""
        return (1 + 2 + len(self.settings.train.ema_decays)) * self._whole

    @property
    def checkpoints(self) -> float:
        """All checkpoints that are kept, the best one too."""
        train = self.settings.train
        return (train.keep_checkpoints + (train.validation.patience is not None)) * self.checkpoint

    @property
    def batch(self) -> float:
        """The frames of a worker's share of a batch."""
        return self.share * self._sequence

    @property
    def pool(self) -> float:
        """The subjects that a worker draws its batches from, in the memory of its machine."""
        train = self.settings.train
        return max(train.subjects_in_memory // train.batch_size, 1) * self.batch

    @property
    def peak_memory(self) -> float:
        """What a worker needs at most, on the kind of device that was measured: extrapolated to its micro-batch."""
        elsewhere = (4 + len(self.settings.train.ema_decays)) * self._whole - self.state
        peak = extrapolate(self.measured.peak, self.micro_batch) - elsewhere
        peak += (self.share - self.micro_batch) * self._sequence
        return peak if self.measured.device.startswith("cuda") else peak + self.pool

    @property
    def seconds_a_step(self) -> float:
        """Of a worker's passes and its update, without exchange, validation and waiting for data."""
        full, rest = divmod(self.share, self.micro_batch)
        sizes = [self.micro_batch] * full + [rest] * (rest > 0)
        return sum(extrapolate(self.measured.seconds, size) for size in sizes) + self.measured.update_seconds

    @property
    def seconds(self) -> float:
        """Of all steps, from the first."""
        return self.settings.train.steps * self.seconds_a_step

    @property
    def flops(self) -> float:
        """Of the whole run, over all workers."""
        return self.settings.train.steps * self.settings.train.batch_size * self.measured.flops

    @property
    def read(self) -> tuple[int | None, int]:
        """Passes through the training subjects that are begun (none: their number is not known), subjects read."""
        subjects = len(self.study.subjects.get("train", ()))
        passes, read = epochs(self.settings.train.steps, subjects or 1, self.settings.train)
        return passes if subjects else None, read

    def lines(self) -> list[str]:
        """All of it for people, as aligned text."""
        told = [*self._told_settings(), *self._told_study(), *self._told_sizes(), *self._told_measured()]
        return [f"{name:<14}{text}".rstrip() for name, text in told]

    @property
    def _whole(self) -> float:
        return 4.0 * self.parameters["parameters"]  # float32 always: see `sadm_ray.model.precision`

    @property
    def _sequence(self) -> float:
        d, h, w = self.study.shape
        return 4.0 * self.frames * d * h * w

    def _state(self, times: int) -> float:
        train = self.settings.train
        return times * self._whole / (train.workers if train.parallel == "fsdp" else 1)

    def _told_settings(self) -> Iterator[tuple[str, str]]:
        train = self.settings.train
        kept = f"{train.keep_checkpoints} kept, one every {train.checkpoint_every} steps"
        best = ", and the best" if train.validation.patience is not None else ""
        elastic = f" (or fewer, down to {train.min_workers})" if train.min_workers not in (None, train.workers) else ""
        yield "run", f"{self.settings.run.name}, {train.steps} steps; a dry run: nothing is trained, nothing is written"
        yield "batch", f"{train.batch_size} over {train.workers} workers{elastic}, {self.share} each"
        yield "micro-batch", f"{self.micro_batch} of a worker's {self.share} at a time"
        yield "parallel", f"{train.parallel}, device {train.device}"
        yield "precision", train.precision + (", compiled" if train.compile else "")
        yield "schedule", f"{train.schedule}, up to {train.learning_rate:g} in {train.warmup_steps} steps"
        yield "averages", ", ".join(ema_name(decay) for decay in train.ema_decays)
        yield "checkpoints", f"{self.location} ({kept}{best})"

    def _told_study(self) -> Iterator[tuple[str, str]]:
        size = "×".join(map(str, self.study.shape))
        frames = f"{self.frames} frames" if self.study.frames else f"all visits ({self.frames} are assumed)"
        passes, read = self.read
        if self.prepared:
            counts = ", ".join(f"{split} {len(names)}" for split, names in self.study.subjects.items())
            yield "study", f"{self.study.location}: {counts} subjects, {frames} of {size}"
        else:
            yield "study", f"not prepared yet; as the settings have it: {frames} of {size}"
        yield "epochs", f"{passes if passes is not None else 'not known yet'}; {read} subjects are read"

    def _told_sizes(self) -> Iterator[tuple[str, str]]:
        train, sharded = self.settings.train, self.settings.train.parallel == "fsdp" and self.settings.train.workers > 1
        of = {name: _millions(self.parameters[f"{name}_parameters"]) for name in ("conditioner", "denoiser")}
        size = " ".join(map(str, (self.share, self.frames, 1, *self.study.shape)))
        kept = f"{_gb(self.checkpoint)} a checkpoint, {_gb(self.checkpoints)} all that are kept"
        parts = ", ".join(f"{count} {name}" for name, count in of.items())
        yield "parameters", f"{parts}, {_millions(self.parameters['parameters'])} in all"
        yield "a worker has", f"1/{train.workers} of each of:" if sharded else "all of:"
        for name in ("weights", "gradients", "averages", "optimizer"):
            yield f"  {name}", _gb(getattr(self, name))
        yield "and its", f"batch, {size} (b t c d h w), {_gb(self.batch)}"
        yield "", f"subjects to draw from, {_gb(self.pool)}, up to 3 times that while the next ones are read"
        yield "on disk", f"{kept}, and one more while it is written"

    def _told_measured(self) -> Iterator[tuple[str, str]]:
        train, measured = self.settings.train, self.measured
        tried = ", ".join(map(str, measured.seconds))
        extrapolated = "" if self.micro_batch in measured.seconds else ", and extrapolated"
        where = f"{measured.device}, {measured.precision}"
        kind = "of the GPU's memory" if measured.device.startswith("cuda") else "with all that a process holds"
        yield (
            "estimated",
            f"measured on this machine ({where}) with random volumes, {tried} samples at a time{extrapolated}",
        )
        yield "  peak memory", f"{_gb(self.peak_memory)} a worker {kind}, where nearly all frames are observed"
        yield "  a step", f"{self.seconds_a_step:.3g} s"
        yield "  the run", _duration(self.seconds)
        yield "  operations", f"{measured.flops / 1e9:.3g} GFLOP a sample, {self.flops / 1e12:,.0f} TFLOP the run"
        yield "", "Workers elsewhere are as fast as their devices. Not counted: workers that share cores, their"
        yield "", "exchange of gradients, validation, waiting for data" + (", torch.compile." if train.compile else ".")
        if measured.too_many:
            yield "", f"{measured.too_many} samples at a time did not fit the memory of this machine."
        if train.device == "gpu" and not measured.device.startswith("cuda"):
            yield "", "train.device is gpu and there is none here: on one, memory and above all time will be others."


def estimate(settings: Settings, study: Study | None) -> Estimate:
    """Measure a training without training; nothing is written and Ray is not started.

    Args:
        study: the prepared one; none: what the settings alone tell of it is taken.

    Raises:
        ConfigError: one or two samples at a time do not fit the memory, or a run of this name was begun with other
            settings.
        DataError: nobody to train on, or nothing to learn.
    """
    prepared, study = study is not None, study or _imagined(settings)
    config = model_config(settings, study)
    location = checkpoints_folder(settings)
    if prepared:
        study.names("train")  # or a clear line that there is nobody
        storage = Storage(location)
        if storage.entry(RUN) is not None:  # else it would be written
            refuse_changes(settings, study, config, storage)
    with torch.device("meta"):
        parameters = Sadm(config).describe()
    frames = study.frames or ASSUMED_FRAMES
    micro_batch = min(settings.train.micro_batch or _share(settings.train), _share(settings.train))
    measured = measure(settings, config, frames, min(micro_batch, _QUESTIONS))
    # More than two only make the estimate a better one: a worker elsewhere may have room for them.
    halved = measured.too_many == 2 and settings.train.on_out_of_memory == "halve"
    if measured.too_many in (1, 2) and not halved:
        device = measured.device.partition(" ")[0]
        outline = torch.empty(1, device=device).expand(measured.too_many, frames, 1, *study.shape)
        nothing = torch.empty(0)
        raise too_large(settings.train, measured.too_many, Batch(outline, nothing, nothing))
    micro_batch = 1 if halved else micro_batch
    return Estimate(settings, study, prepared, frames, parameters, micro_batch, location, measured)


def extrapolate(measured: Mapping[int, float], samples: int) -> float:
    """What was measured for so many samples, else what lies on the line through the two largest numbers of them."""
    if samples in measured or len(measured) == 1:
        return measured.get(samples, measured[max(measured)])
    less, more = sorted(measured)[-2:]
    slope = max(measured[more] - measured[less], 0.0) / (more - less)
    return max(measured[more] + slope * (samples - more), measured[min(measured)])


def measure(settings: Settings, config: SadmConfig, frames: int, most: int) -> Measured:
    """Take passes on 1, 2, 4, … and at last `most` samples, in a process of its own that has nothing else in memory.

    Raises:
        RuntimeError: the process died, and not for want of memory.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, settings, config, frames, most), daemon=True)
    with _worker_environment():
        process.start()
    sender.close()  # or the end of the process would not be seen here
    try:
        told: Measured = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode != -signal.SIGKILL:  # which is how Linux ends what wants too much memory
            raise RuntimeError(f"measuring ended with code {process.exitcode}") from None
        if most > 2:
            return measure(settings, config, frames, 2)  # it took with it what it knew of fewer
        told = Measured("cpu", "", {}, {}, 0.0, 0.0, too_many=most)
    finally:
        process.kill()
        process.join()
    return told


def _measure(sender: Connection, settings: Settings, config: SadmConfig, frames: int, most: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this
    train = settings.train
    device = torch.device("cuda" if train.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
        _stay_within_memory()
    else:
        torch.set_float32_matmul_precision("high")
    wide = train.precision == "float32" or (train.precision == "auto" and not has_bfloat16(device))
    name = "cpu" if device.type == "cpu" else f"cuda {torch.cuda.get_device_name(device)}"
    seconds: dict[int, float] = {}
    peak: dict[int, float] = {}
    update = flops = 0.0
    samples = 1
    too_many = None
    try:
        passes = _Passes(settings, config, frames, device)
        flops = passes.flops()
        update = passes.update()
        while True:
            peak[samples] = passes.peak(samples)  # the larger pass first: what it leaves behind is there in any case
            seconds[samples] = passes.seconds(samples)
            if samples == most or (samples >= 2 and seconds[samples] > _LONG):
                break
            samples = min(2 * samples, most)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        too_many = samples
        peak.pop(samples, None)
    precision = "float32" if wide else "bfloat16"
    sender.send(Measured(name, precision, seconds, peak, update, flops, too_many))


class _Passes:
    """Passes forward and backward as a worker takes them, on random volumes; gradients are kept and added up."""

    def __init__(self, settings: Settings, config: SadmConfig, frames: int, device: torch.device) -> None:
        self.settings, self.device = settings.train, device
        bare = Sadm(config).to(device)
        convert_conv3d_weight_memory_format(bare, torch.channels_last_3d)  # as workers do
        bare.recompute_activations(self.settings.recompute_activations)
        self.learner = Learner(bare, self.settings)
        self.usual, self.largest = _questions(settings, frames, device)
        self.frames = frames

    def flops(self) -> float:
        with FlopCounterMode(display=False) as counter:
            self._take(self.usual, 1)
        return float(counter.get_total_flops())

    def update(self) -> float:
        """Seconds of the second update: the first makes the optimizer's state."""
        for _ in range(2):
            begun = self._now()
            self.learner.clip(self.settings.clip_norm)
            self.learner.update(learning_rate(0, self.settings))
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

    def _take(self, chance: Chance, samples: int) -> None:
        batch = _random_batch(self.learner.bare.config, self.frames, samples, self.device)
        size = self.learner.bare.noise_size(batch.frames.shape[-3:])
        losses, _ = sample_losses(self.learner.model, size, batch, chance.part(slice(samples)), self.settings)
        losses.sum().backward()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _random_batch(config: SadmConfig, frames: int, samples: int, device: torch.device) -> Batch:
    def covariates(of: str, *size: int) -> torch.Tensor | None:
        here: list[CovariateSettings] = [each for each in config.model.covariates if each.of == of]
        return torch.zeros(*size, len(here), device=device) if here else None

    return Batch(
        torch.rand(samples, frames, config.channels, *config.shape, device=device),
        torch.ones(samples, frames, dtype=torch.bool, device=device),
        torch.linspace(0.0, 1.0, frames, device=device).expand(samples, frames),
        covariates("subject", samples),
        covariates("visit", samples, frames),
    )


def _questions(settings: Settings, frames: int, device: torch.device) -> tuple[Chance, Chance]:
    """Chances whose first questions observe as many frames as is usual, and as many as any of the questions drawn.

    Only observed frames are encoded, so that one sample can cost several times what another does.
    """
    drawn = Chance(settings.seed, 0, range(_QUESTIONS), _QUESTIONS)
    present = torch.ones(_QUESTIONS, frames, dtype=torch.bool)
    observed = draw_question(present, drawn, settings.train.imputation).observed.sum(dim=1).float()
    usual = (observed - observed.mean()).abs().argsort(stable=True)
    largest = observed.argsort(descending=True, stable=True)
    first, second = (Chance(settings.seed, 0, order.tolist(), _QUESTIONS, device) for order in (usual, largest))
    return first, second


def _imagined(settings: Settings) -> Study:
    """The study that these settings ask for, as far as they tell."""
    data = settings.data
    return Study("", "", "", "", data.frames, data.shape, data.time_unit or "", {}, _ASSUMED_SCALE)


def _share(train: TrainSettings) -> int:
    return -(-train.batch_size // train.workers)


@contextmanager
def _worker_environment() -> Iterator[None]:
    """For a process that is started: glibc reads its part before Python runs."""
    before = {key: os.environ.get(key) for key in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def _stay_within_memory() -> None:
    """Or the system would kill a process of this machine, perhaps another one, rather than say that it is too much."""
    available, mine = _kernel_told("meminfo", "MemAvailable"), _kernel_told("self/status", "VmData")
    if available is not None and mine is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = available + mine
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _peak_of_process() -> int:
    """Bytes. Linux passes `ru_maxrss` on to a process that is started, so that the parent's memory would be in it."""
    told = _kernel_told("self/status", "VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if told is None else told  # in bytes where no /proc is


def _kernel_told(file: str, name: str) -> int | None:
    """Bytes, as a line such as `VmHWM: 2144 kB` below /proc has it; none on other systems than Linux."""
    try:
        lines = Path("/proc", file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), None)


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} M"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
