"""What every training worker runs, under Ray Train."""

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
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.registry import build_model
from sadm_ray.model.sequence_model import ema_name
from sadm_ray.progress import Reporter
from sadm_ray.tracking import TrackedRun
from sadm_ray.train.async_checkpoint import AsyncCheckpointWriter
from sadm_ray.train.checkpoint import BEST, Checkpoint, Checkpoints
from sadm_ray.train.data_loader import LoadedBatch, SequenceLoader, epochs, lanes_of
from sadm_ray.train.gradient_guard import GradientGuard
from sadm_ray.train.out_of_memory import fit, is_out_of_memory, too_large
from sadm_ray.train.stop_signal import Control, StopSignal
from sadm_ray.train.train_metrics import TrainMetrics
from sadm_ray.train.train_state import TrainState
from sadm_ray.train.train_step import StepResult, train_step
from sadm_ray.train.training_progress import TrainingProgress
from sadm_ray.train.validation import Validation


@dataclass(frozen=True)
class WorkerTask:
    """Everything that a worker needs to know; `location` is where the checkpoints are."""

    settings: Settings
    study: Study
    model: ModelConfig
    location: str
    tracked: TrackedRun
    reporter: Reporter
    control: Control


def train_worker(config: Mapping[str, Any]) -> None:
    """The training loop of one worker; `config` holds `work`, a `WorkerTask`.

    Goes on from the newest checkpoint, if there is one. What a person has to mend is told to the driver: Ray Train
    starts the workers again after any error, and they leave at once.
    """
    work: WorkerTask = config["work"]
    if ray.get(work.control.failure.remote()) is not None:
        return
    try:
        _Worker(work).run()
    except UserError as error:
        ray.get(work.control.fail.remote(error))
        raise


class _Worker:
    def __init__(self, work: WorkerTask) -> None:
        self.work, self.settings = work, work.settings.train
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(1) if self.device.type == "cpu" else torch.set_float32_matmul_precision("high")
        torch.manual_seed(work.settings.training_seed)  # the same initial weights everywhere

        bare = build_model(work.model).to(self.device)
        convert_conv3d_weight_memory_format(bare, torch.channels_last_3d)  # measured 1.2 to 1.7 times faster on CPUs
        bare.recompute_activations(self.settings.recompute_activations)
        self.train_state = TrainState(bare, self.settings, self.world)
        self.guard, self.progress = GradientGuard(self.settings), TrainingProgress()
        self.validation = Validation(work.settings, work.study, self.rank, self.world, self.device)
        self.lanes = lanes_of(self.rank, self.world, self.settings.batch_size)
        self.checkpoints = Checkpoints(work.location, self.settings.keep_checkpoints, self._warn)
        self._resume()

    def run(self) -> None:
        settings, progress = self.settings, self.progress
        data_loader = self._data_loader()
        micro_batch, flops, data_loader = self._fit(data_loader)
        if settings.compile:  # not the conditioner, which packs the observed frames: its shapes differ at every step
            for network in self.train_state.bare.networks():
                network.compile()
        writer = AsyncCheckpointWriter(self.checkpoints, self.work.model, self._warn) if self.rank == 0 else None
        train_metrics = TrainMetrics(settings, self.world, self.device, flops)
        stop = StopSignal(self.work.control, self.rank, self.world, self.device)
        preempted = stopped = False
        for step in range(progress.step, settings.steps):
            asked = time.monotonic()
            drawn = next(data_loader)
            waited = time.monotonic() - asked
            train_metrics.add(self._step(step, drawn, micro_batch), waited)
            progress.step = step + 1
            last, due = (
                progress.step == settings.steps,
                progress.step % settings.checkpoint_every == 0,
            )
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
        found = (newest.folder, newest.told) if newest is not None else None
        if self.world > 1:
            found = broadcast_from_rank_zero(found)
        if found is not None:
            folder, told = found
            self.train_state.restore(Checkpoint(self.checkpoints.storage, folder, told).tensors())
            self.progress = TrainingProgress.from_json(told)
            self.guard.restore(self.progress.guard)

    def _data_loader(self) -> Iterator[LoadedBatch]:
        work = self.work
        covariates = work.model.model.covariates
        data_loader = SequenceLoader(
            work.study, self.settings, covariates, work.settings.training_seed, self.lanes, self.device
        )
        return data_loader.batches(self.progress.step)

    def _rng(self, step: int) -> SampleRng:
        return SampleRng(self.work.settings.training_seed, step, self.lanes, self.settings.batch_size, self.device)

    def _fit(self, data_loader: Iterator[LoadedBatch]) -> tuple[int, float, Iterator[LoadedBatch]]:
        first = next(data_loader, None)
        if first is None:
            return 1, 0.0, data_loader
        rng = self._rng(self.progress.step)
        micro_batch, flops = fit(self.train_state, first.batch, rng, self.settings, self._warn)
        return micro_batch, flops, itertools.chain([first], data_loader)

    def _step(self, step: int, drawn: LoadedBatch, micro_batch: int) -> StepResult:
        rng = self._rng(step)
        try:
            measured = train_step(self.train_state, self.guard, drawn.batch, rng, self.settings, step, micro_batch)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise too_large(self.settings, micro_batch, drawn.batch) from None
            raise
        if not measured.used:
            self._refuse(step, drawn, measured)
        return measured

    def _refuse(self, step: int, drawn: LoadedBatch, measured: StepResult) -> None:
        """Tell of a bad step, and give up after too many in a row, naming whose scans were in the last."""
        broken = [name for name, loss in zip(drawn.subjects, measured.losses.tolist(), strict=True) if loss != loss]
        suspects = [(broken, list(drawn.subjects))]
        if self.world > 1:
            shares: list[Any] = [None] * self.world
            torch.distributed.all_gather_object(shares, suspects[0])
            suspects = shares
        named = [name for broken, _ in suspects for name in broken] or [name for _, all_ in suspects for name in all_]
        whose = ", ".join(dict.fromkeys(named))
        if self.rank == 0:
            self._warn(f"step {step + 1}: the gradient is {measured.grad_norm:.3g}, not used; subjects {whose}")
        if self.guard.in_a_row >= self.settings.max_bad_steps:
            raise DataError(
                f"training broke down: the gradients of {self.guard.in_a_row} steps in a row are not finite or far too "
                f"large; look at the scans of {whose}, or lower train.learning_rate"
            )

    def _record(self, told: Mapping[str, float]) -> None:
        if self.rank == 0:
            step = self.progress.step
            self.work.tracked.metrics({**told, "steps_not_used": float(self.guard.skipped)}, step=step)
            loss = f"loss {told['loss']:.4f}" if "loss" in told else "no step used"
            self.work.reporter.reach.remote(step, f"{loss}, {told['samples_per_second']:.3g} samples/s")

    def _validate(self, writer: AsyncCheckpointWriter | None, *, last: bool) -> bool:
        """Validate where it is due; returns whether training has come to its end by that."""
        wanted, progress = self.settings.validation, self.progress
        due = {
            what: every and (last or progress.step % every == 0)
            for what, every in (("loss", wanted.loss_every), ("psnr", wanted.generate_every))
        }
        if not self.validation or not any(due.values()):
            return False
        first, *others = self.settings.ema_decays
        model = self.train_state.averaged(first)
        told: dict[str, float] = {}
        if due["loss"]:
            told |= self.validation.losses(model)
            told[f"val_loss/{ema_name(first)}"] = told["val_loss"]
            for decay in others:
                told[f"val_loss/{ema_name(decay)}"] = self.validation.losses(self.train_state.averaged(decay))[
                    "val_loss"
                ]
        if due["psnr"]:
            scores, picture = self.validation.generated(model)
            told |= scores
            if picture:
                self.work.tracked.content(f"step-{progress.step:08d}.png", picture, "validation")
        progress.validated |= told
        if self.rank == 0:
            self.work.tracked.metrics(told, step=progress.step)
        if wanted.patience is None or not due[wanted.stop_on]:
            return False
        if progress.judge(self.settings):
            self._save(writer, BEST)
        return progress.since_best >= wanted.patience

    def _save(self, writer: AsyncCheckpointWriter | None, folder: str | None = None) -> None:
        """All workers meet here, the first one writes."""
        progress, subjects = self.progress, len(self.work.study.names("train"))
        progress.epoch, progress.subjects_read = epochs(progress.step, subjects, self.settings)
        progress.guard = self.guard.state()
        state = self.train_state.state(keep=writer is not None)
        if writer is not None:
            writer.begin(state, progress.to_json(self.work.settings, self.work.study, self.world), folder)

    def _warn(self, line: str) -> None:
        self.work.reporter.say.remote(line)
