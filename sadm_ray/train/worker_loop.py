"""The training loop that every worker runs under Ray Train."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.collective import broadcast_from_rank_zero
from torch.nn.utils import convert_conv3d_weight_memory_format

from sadm_ray.config import Settings
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import DataError, UserError
from sadm_ray.model.base_model import ema_name
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.registry import build_model
from sadm_ray.progress import Reporter
from sadm_ray.tracking import TrackedRun
from sadm_ray.train.async_checkpoint import AsyncCheckpointWriter
from sadm_ray.train.checkpoint import BEST, Checkpoint, Checkpoints
from sadm_ray.train.data_loader import LoadedBatch, SequenceLoader, batch_positions, epochs
from sadm_ray.train.gradient_guard import GradientGuard
from sadm_ray.train.out_of_memory import find_micro_batch, is_out_of_memory, out_of_memory_error
from sadm_ray.train.start_model import start_weights
from sadm_ray.train.stop_signal import Control, StopSignal
from sadm_ray.train.train_metrics import TrainMetrics
from sadm_ray.train.train_state import TrainState
from sadm_ray.train.train_step import StepResult, train_step
from sadm_ray.train.training_progress import TrainingProgress
from sadm_ray.train.validation import Validation


@dataclass(frozen=True)
class WorkerTask:
    """Everything that a worker needs; `location` is the folder or URL of the checkpoints.

    `start` gives the initial weights; None where there is none, or a checkpoint to go on from.
    """

    settings: Settings
    study: Study
    model: ModelConfig
    location: str
    tracked: TrackedRun
    reporter: Reporter
    control: Control
    start: StoredModel | None = None


def train_worker(config: Mapping[str, Any]) -> None:
    """The training loop of one worker; `config` holds `task`, a `WorkerTask`.

    Resumes from the newest checkpoint, if there is one. A `UserError` is passed to the driver: Ray Train restarts the
    workers after any error, and they then exit at once.
    """
    task: WorkerTask = config["task"]
    if ray.get(task.control.failure.remote()) is not None:
        return
    try:
        _Worker(task).run()
    except UserError as error:
        ray.get(task.control.fail.remote(error))
        raise


class _Worker:
    def __init__(self, task: WorkerTask) -> None:
        self.task, self.settings = task, task.settings.train
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(1) if self.device.type == "cpu" else torch.set_float32_matmul_precision("high")
        torch.manual_seed(task.settings.training_seed)  # the same initial weights everywhere

        bare = build_model(task.model).to(self.device)
        if task.start is not None:
            start_weights(bare, task.start.build())
        convert_conv3d_weight_memory_format(bare, torch.channels_last_3d)  # measured 1.2 to 1.7 times faster on CPUs
        bare.recompute_activations(self.settings.recompute_activations)
        self.train_state = TrainState(bare, self.settings, self.world)
        self.guard, self.progress = GradientGuard(self.settings), TrainingProgress()
        self.validation = Validation(task.settings, task.study, self.rank, self.world, self.device)
        self.positions = batch_positions(self.rank, self.world, self.settings.batch_size)
        self.checkpoints = Checkpoints(task.location, self.settings.keep_checkpoints, self._warn)
        self._resume()

    def run(self) -> None:
        settings, progress = self.settings, self.progress
        data_loader = self._data_loader()
        micro_batch, flops, data_loader = self._find_micro_batch(data_loader)
        if settings.compile:  # not the conditioner, which packs the observed frames: its shapes differ at every step
            for network in self.train_state.bare.networks():
                network.compile()
        writer = AsyncCheckpointWriter(self.checkpoints, self.task.model, self._warn) if self.rank == 0 else None
        train_metrics = TrainMetrics(settings, self.world, self.device, flops)
        stop = StopSignal(self.task.control, self.rank, self.world, self.device)
        preempted = stopped = False
        for step in range(progress.step, settings.steps):
            start = time.monotonic()
            loaded = next(data_loader)
            waited = time.monotonic() - start
            train_metrics.add(self._step(step, loaded, micro_batch), waited)
            progress.step = step + 1
            last = progress.step == settings.steps
            due = progress.step % settings.checkpoint_every == 0
            if last or progress.step % settings.log_every == 0:
                self._record(train_metrics.record(step))
                warned = ray.train.get_preemption_info() is not None
                due, preempted = due or (warned and not preempted), warned
            with train_metrics.paused():
                enough = self._validate(writer, last=last)
            stopped = stop.agreed()
            if last or due or enough or stopped:
                progress.ended_early = enough
                with train_metrics.stalled():
                    self._save(writer)
            if enough or stopped:
                break
        if writer is not None:
            writer.finish(progress.step)

    def _resume(self) -> None:
        newest = self.checkpoints.newest() if self.rank == 0 else None
        found = (newest.folder, newest.metadata) if newest is not None else None
        if self.world > 1:
            found = broadcast_from_rank_zero(found)
        if found is not None:
            folder, metadata = found
            self.train_state.restore(Checkpoint(self.checkpoints.storage, folder, metadata).tensors())
            self.progress = TrainingProgress.from_json(metadata)
            self.guard.restore(self.progress.guard)

    def _data_loader(self) -> Iterator[LoadedBatch]:
        task = self.task
        covariates = task.model.model.covariates
        data_loader = SequenceLoader(
            task.study, self.settings, covariates, task.settings.training_seed, self.positions, self.device
        )
        return data_loader.batches(self.progress.step)

    def _rng(self, step: int) -> SampleRng:
        return SampleRng(self.task.settings.training_seed, step, self.positions, self.settings.batch_size, self.device)

    def _find_micro_batch(self, data_loader: Iterator[LoadedBatch]) -> tuple[int, float, Iterator[LoadedBatch]]:
        first = next(data_loader, None)
        if first is None:
            return 1, 0.0, data_loader
        rng = self._rng(self.progress.step)
        micro_batch, flops = find_micro_batch(self.train_state, first.batch, rng, self.settings, self._warn)
        return micro_batch, flops, itertools.chain([first], data_loader)

    def _step(self, step: int, loaded: LoadedBatch, micro_batch: int) -> StepResult:
        rng = self._rng(step)
        try:
            result = train_step(self.train_state, self.guard, loaded.batch, rng, self.settings, step, micro_batch)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory_error(self.settings, micro_batch, loaded.batch) from None
            raise
        if not result.used:
            self._report_bad_step(step, loaded, result)
        return result

    def _report_bad_step(self, step: int, loaded: LoadedBatch, result: StepResult) -> None:
        """Warn of a skipped step, and end the training after too many in a row, naming the subjects of the last."""
        broken = [name for name, loss in zip(loaded.subjects, result.losses.tolist(), strict=True) if loss != loss]
        suspects = [(broken, list(loaded.subjects))]
        if self.world > 1:
            shares: list[Any] = [None] * self.world
            torch.distributed.all_gather_object(shares, suspects[0])
            suspects = shares
        names = [name for broken, _ in suspects for name in broken] or [name for _, all_ in suspects for name in all_]
        subjects = ", ".join(dict.fromkeys(names))
        if self.rank == 0:
            self._warn(f"step {step + 1}: the gradient is {result.grad_norm:.3g}, not used; subjects {subjects}")
        if self.guard.in_a_row >= self.settings.max_bad_steps:
            raise DataError(
                f"training broke down: the gradients of {self.guard.in_a_row} steps in a row are not finite or far too "
                f"large; look at the scans of {subjects}, or lower train.learning_rate"
            )

    def _record(self, metrics: Mapping[str, float]) -> None:
        if self.rank == 0:
            step = self.progress.step
            self.task.tracked.metrics({**metrics, "steps_not_used": float(self.guard.skipped)}, step=step)
            loss = f"loss {metrics['loss']:.4f}" if "loss" in metrics else "no step used"
            self.task.reporter.reach.remote(step, f"{loss}, {metrics['samples_per_second']:.3g} samples/s")

    def _validate(self, writer: AsyncCheckpointWriter | None, *, last: bool) -> bool:
        """Validate if it is due; returns whether early stopping ends the training."""
        wanted, progress = self.settings.validation, self.progress
        due = {
            name: every and (last or progress.step % every == 0)
            for name, every in (("loss", wanted.loss_every), ("psnr", wanted.generate_every))
        }
        if not self.validation or not any(due.values()):
            return False
        first, *others = self.settings.ema_decays
        model = self.train_state.averaged(first)
        metrics: dict[str, float] = {}
        if due["loss"]:
            metrics |= self.validation.losses(model)
            metrics[f"val_loss/{ema_name(first)}"] = metrics["val_loss"]
            for decay in others:
                other = self.train_state.averaged(decay)
                metrics[f"val_loss/{ema_name(decay)}"] = self.validation.losses(other)["val_loss"]
        if due["psnr"]:
            scores, picture = self.validation.generated(model)
            metrics |= scores
            if picture:
                self.task.tracked.content(f"step-{progress.step:08d}.png", picture, "validation")
        progress.validated |= metrics
        if self.rank == 0:
            self.task.tracked.metrics(metrics, step=progress.step)
        if wanted.patience is None or not due[wanted.stop_on]:
            return False
        if progress.update_best(self.settings):
            self._save(writer, BEST)
        return progress.since_best >= wanted.patience

    def _save(self, writer: AsyncCheckpointWriter | None, folder: str | None = None) -> None:
        """Collect the state from all workers, which all call this; the first one writes it."""
        progress, subjects = self.progress, len(self.task.study.names("train"))
        progress.epoch, progress.subjects_read = epochs(progress.step, subjects, self.settings)
        progress.guard = self.guard.state()
        state = self.train_state.state(keep=writer is not None)
        if writer is not None:
            writer.start_write(state, progress.to_json(self.task.settings, self.task.study, self.world), folder)

    def _warn(self, line: str) -> None:
        self.task.reporter.say.remote(line)
