"""The dry run of a training: sizes from the settings, memory and time from a measured pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from sadm_ray.config import Settings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.model.base_model import ema_name
from sadm_ray.model.registry import build_model
from sadm_ray.storage import Storage
from sadm_ray.train.checkpoint import Checkpoints, checkpoints_folder
from sadm_ray.train.data_loader import epochs
from sadm_ray.train.out_of_memory import out_of_memory_error
from sadm_ray.train.resume_check import RUN, refuse_changes
from sadm_ray.train.start_model import read_start_model
from sadm_ray.train.step_profile import StepProfile, profile_step
from sadm_ray.train.train_step import Batch
from sadm_ray.train.trainer import model_config

ASSUMED_FRAMES = 16
"""Assumed for a study that keeps all visits, since only its shards have the number of each subject."""

_ASSUMED_SCALE = 0.1
"""Any value will do: it changes neither size nor time."""


@dataclass(frozen=True)
class DryRun:
    """The estimate of a training. Sizes are in bytes and of one worker, unless stated otherwise.

    Attributes:
        study: the prepared one, or (`prepared` is false) one without subjects, as far as the settings define it.
        frames: of a sequence.
        parameters: of `SequenceModel.describe`.
        local_batch_size: samples of each batch that a worker has, at most.
        micro_batch: samples that a worker takes at a time.
        location: folder or URL of the checkpoints.
    """

    settings: Settings
    study: Study
    prepared: bool
    frames: int
    parameters: Mapping[str, int]
    local_batch_size: int
    micro_batch: int
    location: str
    profile: StepProfile

    @property
    def state(self) -> dict[str, float]:
        """Weights, gradients, all averages of the weights, and the optimizer state."""
        train = self.settings.train
        one = self._weight_bytes / (train.workers if train.parallel == "fsdp" else 1)
        averages = len(train.ema_decays) * one
        return {"weights": one, "gradients": one, "averages": averages, "optimizer": self._moments_per_weight * one}

    @property
    def checkpoint(self) -> float:
        """One checkpoint on disk, which holds whole tensors also under FSDP."""
        return (1 + self._moments_per_weight + len(self.settings.train.ema_decays)) * self._weight_bytes

    @property
    def batch(self) -> float:
        """The frames of a worker's share of a batch."""
        return self.local_batch_size * self._sequence_bytes

    @property
    def pool(self) -> float:
        """The subjects that a worker draws its batches from, in the memory of its machine."""
        train = self.settings.train
        return max(train.subjects_in_memory // train.batch_size, 1) * self.batch

    @property
    def peak_memory(self) -> float:
        """The peak memory of a worker on the kind of device that was measured, extrapolated to its micro-batch."""
        held = (2 + self._moments_per_weight + len(self.settings.train.ema_decays)) * self._weight_bytes
        elsewhere = held - sum(self.state.values())
        peak = extrapolate(self.profile.peak, self.micro_batch) - elsewhere
        peak += (self.local_batch_size - self.micro_batch) * self._sequence_bytes
        return peak if self._on_gpu else peak + self.pool

    @property
    def seconds_per_step(self) -> float:
        """Of a worker's passes and update, without gradient exchange, validation and waiting for data."""
        full, rest = divmod(self.local_batch_size, self.micro_batch)
        sizes = [self.micro_batch] * full + [rest] * (rest > 0)
        return sum(extrapolate(self.profile.seconds, size) for size in sizes) + self.profile.update_seconds

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return self.settings.train.steps * self.seconds_per_step

    @property
    def flops(self) -> float:
        """Of the whole run, over all workers."""
        return self.settings.train.steps * self.settings.train.batch_size * self.profile.flops

    @property
    def read(self) -> tuple[int | None, int]:
        """Epochs that are started (none: the number of subjects is not known), and subjects read."""
        subjects = len(self.study.subjects.get("train", ()))
        passes, read = epochs(self.settings.train.steps, subjects or 1, self.settings.train)
        return passes if subjects else None, read

    def lines(self) -> list[str]:
        """The estimate as aligned lines of text."""
        rows = [*self._settings_rows(), *self._study_rows(), *self._size_rows(), *self._measured_rows()]
        return [f"{name:<14}{text}" for name, text in rows]

    @property
    def _moments_per_weight(self) -> int:
        """Those of matrices; norms and biases, of which AdamW always keeps two, are about one weight in a hundred."""
        return 1 if self.settings.train.optimizer == "muon" else 2

    @property
    def _weight_bytes(self) -> float:
        return 4.0 * self.parameters["parameters"]  # float32 always: see `sadm_ray.model.mixed_precision`

    @property
    def _sequence_bytes(self) -> float:
        d, h, w = self.study.shape
        return 4.0 * self.frames * len(self.study.contrasts) * d * h * w

    @property
    def _on_gpu(self) -> bool:
        return self.profile.device.startswith("cuda")

    def _settings_rows(self) -> Iterator[tuple[str, str]]:
        train = self.settings.train
        kept = f"{train.keep_checkpoints} kept, one every {train.checkpoint_every} steps"
        best = ", and the best" if train.validation.patience is not None else ""
        elastic = f" (or fewer, down to {train.min_workers})" if train.min_workers not in (None, train.workers) else ""
        averages = ", ".join(map(ema_name, train.ema_decays))
        compiled = ", compiled" if train.compile else ""
        yield "run", f"{self.settings.run.name}, {train.steps} steps; a dry run: nothing is trained, nothing is written"
        yield "batch", f"{train.batch_size} over {train.workers} workers{elastic}, {self.local_batch_size} each"
        yield "micro-batch", f"{self.micro_batch} of a worker's {self.local_batch_size} at a time"
        yield "workers", f"{train.parallel}, device {train.device}, precision {train.precision}{compiled}"
        yield "schedule", f"{train.schedule}, up to {train.learning_rate:g} in {train.warmup_steps} steps; {averages}"
        yield "checkpoints", f"{self.location} ({kept}{best})"

    def _study_rows(self) -> Iterator[tuple[str, str]]:
        size = "×".join(map(str, self.study.shape))
        frames = f"{self.frames} frames" if self.study.frames else f"all visits ({self.frames} are assumed)"
        passes, read = self.read
        if self.prepared:
            counts = ", ".join(f"{split} {len(names)}" for split, names in self.study.subjects.items())
            yield "study", f"{self.study.location}: {counts} subjects, {frames} of {size}"
        else:
            yield "study", f"not prepared yet; as the settings have it: {frames} of {size}"
        yield "epochs", f"{'not known yet' if passes is None else passes}; {read} subjects are read"

    def _size_rows(self) -> Iterator[tuple[str, str]]:
        train = self.settings.train
        counts = {name.removesuffix("_parameters"): f"{count / 1e6:.3g} M" for name, count in self.parameters.items()}
        parts = ", ".join(f"{count} {name}" for name, count in counts.items() if name != "parameters")
        size = " ".join(map(str, (self.local_batch_size, self.frames, len(self.study.contrasts), *self.study.shape)))
        state = ", ".join(f"{name} {_gb(part)}" for name, part in self.state.items())
        sharded = f": 1/{train.workers} of all" if train.parallel == "fsdp" and train.workers > 1 else ""
        kept = (train.keep_checkpoints + (train.validation.patience is not None)) * self.checkpoint
        yield "parameters", f"{parts}, {counts['parameters']} in all"
        yield "a worker has", state + sharded
        yield "and its batch", f"{size} (b t c d h w), {_gb(self.batch)}"
        yield "and subjects", f"to draw from, {_gb(self.pool)}, up to 3 times that while the next ones are read"
        yield "on disk", f"{_gb(self.checkpoint)} a checkpoint, {_gb(kept)} all kept, and one more while it is written"

    def _measured_rows(self) -> Iterator[tuple[str, str]]:
        train, profile = self.settings.train, self.profile
        tried = ", ".join(map(str, profile.seconds))
        extrapolated = "" if self.micro_batch in profile.seconds else ", and extrapolated"
        where = f"this machine ({profile.device}, {profile.precision})"
        kind = "of the GPU's memory" if self._on_gpu else "with all that a process holds"
        yield "estimated", f"measured on {where} with random volumes, {tried} samples at a time{extrapolated}"
        yield "  peak memory", f"{_gb(self.peak_memory)} a worker {kind}, where nearly all frames are observed"
        yield "  a step", f"{self.seconds_per_step:.3g} s"
        yield "  the run", _duration(self.seconds)
        yield "  operations", f"{profile.flops / 1e9:.3g} GFLOP a sample, {self.flops / 1e12:.3g} TFLOP the run"
        yield "", "Workers elsewhere are as fast as their devices. Not counted: workers that share cores, their"
        yield "", "exchange of gradients, validation, waiting for data" + (", torch.compile." if train.compile else ".")
        if profile.too_many:
            yield "", f"{profile.too_many} samples at a time did not fit the memory of this machine."
        if train.device == "gpu" and not self._on_gpu:
            yield "", "train.device is gpu and there is none here: on one, memory and above all time will be others."


def estimate(settings: Settings, study: Study | None, *, smaller: bool = True) -> DryRun:
    """Estimate a training without training; nothing is written and Ray is not started.

    Args:
        study: the prepared one; none: the study is assumed from the settings.
        smaller: whether smaller micro-batches are measured first, so that there is a result if a large one does not
            fit.

    Raises:
        ConfigError: one or two samples at a time do not fit the memory, a run of this name was begun with other
            settings, or the model that it starts from does not go with it.
        DataError: there are no training subjects, or all their frames are equal.
    """
    prepared, study, train = study is not None, study or _study_from_settings(settings), settings.train
    config = model_config(settings, study)
    location = checkpoints_folder(settings)
    if prepared:
        study.names("train")  # raises if there are none
        storage = Storage(location)
        if storage.entry(RUN) is not None:  # else `refuse_changes` would write it
            refuse_changes(settings, study, config, storage)
    if train.start_from is not None and Checkpoints(location, warn=lambda line: None).newest() is None:
        read_start_model(settings, build_model(config))
    with torch.device("meta"):
        parameters = build_model(config).describe()
    frames = study.frames or ASSUMED_FRAMES
    local_batch_size = -(-train.batch_size // train.workers)
    micro_batch = min(train.micro_batch or local_batch_size, local_batch_size)
    profile = profile_step(settings, config, frames, micro_batch, smaller=smaller)
    if profile.too_many == 2 and train.on_out_of_memory == "halve":
        micro_batch = 1
    elif profile.too_many in (1, 2):  # larger ones only improve the estimate, and may fit a worker elsewhere
        one = torch.empty(1, device=profile.device.partition(" ")[0])
        batch_shape = one.expand(profile.too_many, frames, len(study.contrasts), *study.shape)
        raise out_of_memory_error(train, profile.too_many, Batch(batch_shape, one, one))
    return DryRun(settings, study, prepared, frames, parameters, local_batch_size, micro_batch, location, profile)


def extrapolate(measured: Mapping[int, float], samples: int) -> float:
    """The value measured for so many samples, else one on the line through the two largest sample counts."""
    if samples in measured or len(measured) == 1:
        return measured.get(samples, measured[max(measured)])
    less, more = sorted(measured)[-2:]
    slope = max(measured[more] - measured[less], 0.0) / (more - less)
    return max(measured[more] + slope * (samples - more), measured[min(measured)])


def _study_from_settings(settings: Settings) -> Study:
    """A study without subjects, as far as the settings define it."""
    data = settings.data
    study = Study("", "", "", "", data.frames, data.shape, data.time_unit or "", {}, _ASSUMED_SCALE)
    return replace(study, settings=data.model_dump(mode="json"))


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
