"""What a training would be, before there is one: sizes from the settings, memory and time from a measured pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from sadm_ray.config import Settings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.model.registry import build_model
from sadm_ray.model.sequence_model import ema_name
from sadm_ray.storage import Storage
from sadm_ray.train.data_loader import epochs
from sadm_ray.train.out_of_memory import too_large
from sadm_ray.train.resume_check import RUN, refuse_changes
from sadm_ray.train.step_profile import StepProfile, profile_step
from sadm_ray.train.train_step import Batch
from sadm_ray.train.trainer import checkpoints_folder, model_config

ASSUMED_FRAMES = 16
"""Of a study that keeps all visits: how many is known from its shards alone, subject by subject."""

_ASSUMED_SCALE = 0.1
"""Any value does: it changes no size and no time."""


@dataclass(frozen=True)
class DryRun:
    """What a training would be. Sizes are in bytes and those of one worker, if nothing else is said.

    Attributes:
        study: as prepared, or as the settings alone tell (`prepared` is then false, and nobody is in it).
        frames: of a sequence.
        parameters: as `SequenceModel.describe` tells.
        share: samples of each batch that a worker has: the most that one has.
        micro_batch: samples that a worker takes at a time.
        location: where checkpoints would go.
    """

    settings: Settings
    study: Study
    prepared: bool
    frames: int
    parameters: Mapping[str, int]
    share: int
    micro_batch: int
    location: str
    measured: StepProfile

    @property
    def state(self) -> dict[str, float]:
        """Weights, gradients, all averages of the weights, and what the optimizer remembers."""
        train = self.settings.train
        one = self._whole / (train.workers if train.parallel == "fsdp" else 1)
        averages = len(train.ema_decays) * one
        return {"weights": one, "gradients": one, "averages": averages, "optimizer": self._moments * one}

    @property
    def checkpoint(self) -> float:
        """One checkpoint on disk, which is whole however training is spread."""
        return (1 + self._moments + len(self.settings.train.ema_decays)) * self._whole

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
        held = (2 + self._moments + len(self.settings.train.ema_decays)) * self._whole
        elsewhere = held - sum(self.state.values())
        peak = extrapolate(self.measured.peak, self.micro_batch) - elsewhere
        peak += (self.share - self.micro_batch) * self._sequence
        return peak if self._on_gpu else peak + self.pool

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
        return [f"{name:<14}{text}" for name, text in told]

    @property
    def _moments(self) -> int:
        """How many are kept of a weight; norms and biases, of which AdamW keeps two, are about one in a hundred."""
        return 1 if self.settings.train.optimizer == "muon" else 2

    @property
    def _whole(self) -> float:
        return 4.0 * self.parameters["parameters"]  # float32 always: see `sadm_ray.model.mixed_precision`

    @property
    def _sequence(self) -> float:
        d, h, w = self.study.shape
        return 4.0 * self.frames * d * h * w

    @property
    def _on_gpu(self) -> bool:
        return self.measured.device.startswith("cuda")

    def _told_settings(self) -> Iterator[tuple[str, str]]:
        train = self.settings.train
        kept = f"{train.keep_checkpoints} kept, one every {train.checkpoint_every} steps"
        best = ", and the best" if train.validation.patience is not None else ""
        elastic = f" (or fewer, down to {train.min_workers})" if train.min_workers not in (None, train.workers) else ""
        averages = ", ".join(map(ema_name, train.ema_decays))
        compiled = ", compiled" if train.compile else ""
        yield "run", f"{self.settings.run.name}, {train.steps} steps; a dry run: nothing is trained, nothing is written"
        yield "batch", f"{train.batch_size} over {train.workers} workers{elastic}, {self.share} each"
        yield "micro-batch", f"{self.micro_batch} of a worker's {self.share} at a time"
        yield "workers", f"{train.parallel}, device {train.device}, precision {train.precision}{compiled}"
        yield "schedule", f"{train.schedule}, up to {train.learning_rate:g} in {train.warmup_steps} steps; {averages}"
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
        yield "epochs", f"{'not known yet' if passes is None else passes}; {read} subjects are read"

    def _told_sizes(self) -> Iterator[tuple[str, str]]:
        train = self.settings.train
        counts = {name.removesuffix("_parameters"): f"{count / 1e6:.3g} M" for name, count in self.parameters.items()}
        parts = ", ".join(f"{count} {name}" for name, count in counts.items() if name != "parameters")
        size = " ".join(map(str, (self.share, self.frames, 1, *self.study.shape)))
        state = ", ".join(f"{name} {_gb(part)}" for name, part in self.state.items())
        sharded = f": 1/{train.workers} of all" if train.parallel == "fsdp" and train.workers > 1 else ""
        kept = (train.keep_checkpoints + (train.validation.patience is not None)) * self.checkpoint
        yield "parameters", f"{parts}, {counts['parameters']} in all"
        yield "a worker has", state + sharded
        yield "and its batch", f"{size} (b t c d h w), {_gb(self.batch)}"
        yield "and subjects", f"to draw from, {_gb(self.pool)}, up to 3 times that while the next ones are read"
        yield "on disk", f"{_gb(self.checkpoint)} a checkpoint, {_gb(kept)} all kept, and one more while it is written"

    def _told_measured(self) -> Iterator[tuple[str, str]]:
        train, measured = self.settings.train, self.measured
        tried = ", ".join(map(str, measured.seconds))
        extrapolated = "" if self.micro_batch in measured.seconds else ", and extrapolated"
        where = f"this machine ({measured.device}, {measured.precision})"
        kind = "of the GPU's memory" if self._on_gpu else "with all that a process holds"
        yield "estimated", f"measured on {where} with random volumes, {tried} samples at a time{extrapolated}"
        yield "  peak memory", f"{_gb(self.peak_memory)} a worker {kind}, where nearly all frames are observed"
        yield "  a step", f"{self.seconds_a_step:.3g} s"
        yield "  the run", _duration(self.seconds)
        yield "  operations", f"{measured.flops / 1e9:.3g} GFLOP a sample, {self.flops / 1e12:.3g} TFLOP the run"
        yield "", "Workers elsewhere are as fast as their devices. Not counted: workers that share cores, their"
        yield "", "exchange of gradients, validation, waiting for data" + (", torch.compile." if train.compile else ".")
        if measured.too_many:
            yield "", f"{measured.too_many} samples at a time did not fit the memory of this machine."
        if train.device == "gpu" and not self._on_gpu:
            yield "", "train.device is gpu and there is none here: on one, memory and above all time will be others."


def estimate(settings: Settings, study: Study | None, *, smaller: bool = True) -> DryRun:
    """Measure a training without training; nothing is written and Ray is not started.

    Args:
        study: the prepared one; none: what the settings alone tell of it is taken.
        smaller: whether smaller micro-batches are measured first, so that one that is too large is no loss.

    Raises:
        ConfigError: one or two samples at a time do not fit the memory, or a run of this name was begun with other
            settings.
        DataError: nobody to train on, or nothing to learn.
    """
    prepared, study, train = study is not None, study or _imagined(settings), settings.train
    config = model_config(settings, study)
    location = checkpoints_folder(settings)
    if prepared:
        study.names("train")  # or a clear line that there is nobody
        storage = Storage(location)
        if storage.entry(RUN) is not None:  # else it would be written
            refuse_changes(settings, study, config, storage)
    with torch.device("meta"):
        parameters = build_model(config).describe()
    frames = study.frames or ASSUMED_FRAMES
    share = -(-train.batch_size // train.workers)
    micro_batch = min(train.micro_batch or share, share)
    measured = profile_step(settings, config, frames, micro_batch, smaller=smaller)
    if measured.too_many == 2 and train.on_out_of_memory == "halve":
        micro_batch = 1
    elif measured.too_many in (1, 2):  # more only make the estimate a better one: a worker elsewhere may have room
        one = torch.empty(1, device=measured.device.partition(" ")[0])
        outline = one.expand(measured.too_many, frames, 1, *study.shape)
        raise too_large(train, measured.too_many, Batch(outline, one, one))
    return DryRun(settings, study, prepared, frames, parameters, share, micro_batch, location, measured)


def extrapolate(measured: Mapping[int, float], samples: int) -> float:
    """What was measured for so many samples, else what lies on the line through the two largest numbers of them."""
    if samples in measured or len(measured) == 1:
        return measured.get(samples, measured[max(measured)])
    less, more = sorted(measured)[-2:]
    slope = max(measured[more] - measured[less], 0.0) / (more - less)
    return max(measured[more] + slope * (samples - more), measured[min(measured)])


def _imagined(settings: Settings) -> Study:
    """The study that these settings ask for, as far as they tell."""
    data = settings.data
    return Study("", "", "", "", data.frames, data.shape, data.time_unit or "", {}, _ASSUMED_SCALE)


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
