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
from sadm_ray.data.chance import Chance
from sadm_ray.data.study import Study
from sadm_ray.errors import DataError, UserError
from sadm_ray.model.config import ModelConfig
from sadm_ray.model.kinds import build_model
from sadm_ray.model.sequence_model import ema_name
from sadm_ray.progress import Reporter
from sadm_ray.tracking import TrackedRun
from sadm_ray.train.checkpoint import BEST, Checkpoint, Checkpoints
from sadm_ray.train.control import Control, StopSignal
from sadm_ray.train.feed import Drawn, Feed, epochs, lanes_of
from sadm_ray.train.guard import Guard
from sadm_ray.train.learner import Learner
from sadm_ray.train.memory import fit, is_out_of_memory, too_large
from sadm_ray.train.meter import Meter
from sadm_ray.train.standing import Standing
from sadm_ray.train.step import Measured, train_step
from sadm_ray.train.validate import Validation
from sadm_ray.train.writer import Writer


@dataclass(frozen=True)
class Work:
    """Everything that a worker needs to know; `location` is where the checkpoints are."""

    settings: Settings
    study: Study
    model: ModelConfig
    location: str
    tracked: TrackedRun
    reporter: Reporter
    control: Control


def train_worker(config: Mapping[str, Any]) -> None:
    """The training loop of one worker; `config` holds `work`, a `Work`.

    Goes on from the newest checkpoint, if there is one. What a person has to mend is told to the driver: Ray Train
    starts the workers again after any error, and they leave at once.
    """
    work: Work = config["work"]
    if ray.get(work.control.failure.remote()) is not None:
        return
    try:
        _Worker(work).run()
    except UserError as error:
        ray.get(work.control.fail.remote(error))
        raise


class _Worker:
    def __init__(self, work: Work) -> None:
        self.work, self.settings = work, work.settings.train
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(1) if self.device.type == "cpu" else torch.set_float32_matmul_precision("high")
        torch.manual_seed(work.settings.training_seed)  # the same initial weights everywhere

        bare = build_model(work.model).to(self.device)
        convert_conv3d_weight_memory_format(bare, torch.channels_last_3d)  # measured 1.2 to 1.7 times faster on CPUs
        bare.recompute_activations(self.settings.recompute_activations)
        self.learner = Learner(bare, self.settings, self.world)
        self.guard, self.standing = Guard(self.settings), Standing()
        self.validation = Validation(work.settings, work.study, self.rank, self.world, self.device)
        self.lanes = lanes_of(self.rank, self.world, self.settings.batch_size)
        self.checkpoints = Checkpoints(work.location, self.settings.keep_checkpoints, self._warn)
        self._resume()

    def run(self) -> None:
        settings, standing = self.settings, self.standing
        feed = self._feed()
        micro_batch, flops, feed = self._fit(feed)
        if settings.compile:  # not the conditioner, which packs the observed frames: its shapes differ at every step
            for network in self.learner.bare.networks():
                network.compile()
        writer = Writer(self.checkpoints, self.work.model, self._warn) if self.rank == 0 else None
        meter = Meter(settings, self.world, self.device, flops)
        stop = StopSignal(self.work.control, self.rank, self.world, self.device)
        preempted = stopped = False
        for step in range(standing.step, settings.steps):
            asked = time.monotonic()
            drawn = next(feed)
            waited = time.monotonic() - asked
            meter.add(self._step(step, drawn, micro_batch), waited)
            standing.step = step + 1
            last, due = standing.step == settings.steps, standing.step % settings.checkpoint_every == 0
            if last or standing.step % settings.log_every == 0:
                self._record(meter.record(step))
                warned = ray.train.get_preemption_info() is not None
                due, preempted = due or (warned and not preempted), warned
            with meter.paused():
                enough = self._validate(writer, last=last)
            stopped = stop.agreed()
            if last or due or enough or stopped:
                standing.ended_early = enough
                with meter.stalled():
                    self._save(writer)
            if enough or stopped:
                break
        if writer is not None:
            writer.finish(standing.step)

    def _resume(self) -> None:
        newest = self.checkpoints.newest() if self.rank == 0 else None
        found = (newest.folder, newest.told) if newest is not None else None
        if self.world > 1:
            found = broadcast_from_rank_zero(found)
        if found is not None:
            folder, told = found
            self.learner.restore(Checkpoint(self.checkpoints.storage, folder, told).tensors())
            self.standing = Standing.from_json(told)
            self.guard.restore(self.standing.guard)

    def _feed(self) -> Iterator[Drawn]:
        work = self.work
        covariates = work.model.model.covariates
        feed = Feed(work.study, self.settings, covariates, work.settings.training_seed, self.lanes, self.device)
        return feed.batches(self.standing.step)

    def _chance(self, step: int) -> Chance:
        return Chance(self.work.settings.training_seed, step, self.lanes, self.settings.batch_size, self.device)

    def _fit(self, feed: Iterator[Drawn]) -> tuple[int, float, Iterator[Drawn]]:
        first = next(feed, None)
        if first is None:
            return 1, 0.0, feed
        chance = self._chance(self.standing.step)
        micro_batch, flops = fit(self.learner, first.batch, chance, self.settings, self._warn)
        return micro_batch, flops, itertools.chain([first], feed)

    def _step(self, step: int, drawn: Drawn, micro_batch: int) -> Measured:
        chance = self._chance(step)
        try:
            measured = train_step(self.learner, self.guard, drawn.batch, chance, self.settings, step, micro_batch)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise too_large(self.settings, micro_batch, drawn.batch) from None
            raise
        if not measured.used:
            self._refuse(step, drawn, measured)
        return measured

    def _refuse(self, step: int, drawn: Drawn, measured: Measured) -> None:
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
            step = self.standing.step
            self.work.tracked.metrics({**told, "steps_not_used": float(self.guard.skipped)}, step=step)
            loss = f"loss {told['loss']:.4f}" if "loss" in told else "no step used"
            self.work.reporter.reach.remote(step, f"{loss}, {told['samples_per_second']:.3g} samples/s")

    def _validate(self, writer: Writer | None, *, last: bool) -> bool:
        """Validate where it is due; returns whether training has come to its end by that."""
        wanted, standing = self.settings.validation, self.standing
        due = {
            what: every and (last or standing.step % every == 0)
            for what, every in (("loss", wanted.loss_every), ("psnr", wanted.generate_every))
        }
        if not self.validation or not any(due.values()):
            return False
        first, *others = self.settings.ema_decays
        model = self.learner.averaged(first)
        told: dict[str, float] = {}
        if due["loss"]:
            told |= self.validation.losses(model)
            told[f"val_loss/{ema_name(first)}"] = told["val_loss"]
            for decay in others:
                told[f"val_loss/{ema_name(decay)}"] = self.validation.losses(self.learner.averaged(decay))["val_loss"]
        if due["psnr"]:
            scores, picture = self.validation.generated(model)
            told |= scores
            if picture:
                self.work.tracked.content(f"step-{standing.step:08d}.png", picture, "validation")
        standing.validated |= told
        if self.rank == 0:
            self.work.tracked.metrics(told, step=standing.step)
        if wanted.patience is None or not due[wanted.stop_on]:
            return False
        if standing.judge(self.settings):
            self._save(writer, BEST)
        return standing.since_best >= wanted.patience

    def _save(self, writer: Writer | None, folder: str | None = None) -> None:
        """All workers meet here, the first one writes."""
        standing, subjects = self.standing, len(self.work.study.names("train"))
        standing.epoch, standing.subjects_read = epochs(standing.step, subjects, self.settings)
        standing.guard = self.guard.state()
        state = self.learner.state(keep=writer is not None)
        if writer is not None:
            writer.begin(state, standing.to_json(self.work.settings, self.work.study, self.world), folder)

    def _warn(self, line: str) -> None:
        self.work.reporter.say.remote(line)
