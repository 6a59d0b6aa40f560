"""One training step, in plain PyTorch without Ray.

Its result depends neither on the number of workers nor on the micro-batch: random numbers follow from a sample's
position in the whole batch (`SampleRng`), and gradients are sums over samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sadm_ray.config import TrainSettings
from sadm_ray.data.load.augmentation import augment
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.data.load.target_sampling import draw_target, take
from sadm_ray.model.mixed_precision import autocast
from sadm_ray.train.gradient_guard import GradientGuard
from sadm_ray.train.learning_rate_schedule import learning_rate
from sadm_ray.train.train_state import TrainState

LEVELS = 5
"""Losses are recorded in so many equal ranges of the noise level t in [0, 1]."""


@dataclass(frozen=True)
class Batch:
    """Whole sequences; their targets and observed frames are drawn anew at every step.

    `has_channel`: which channels each frame has; none: all. `planned`: what is known of each frame where it is the
    target, in the columns of `visit_covariates`.
    """

    frames: Float[Tensor, "b t c d h w"]
    present: Bool[Tensor, "b t"]
    times: Float[Tensor, "b t"]
    covariates: Float[Tensor, "b n"] | None = None
    visit_covariates: Float[Tensor, "b t m"] | None = None
    has_channel: Bool[Tensor, "b t c"] | None = None
    planned: Float[Tensor, "b t v"] | None = None

    def part(self, chosen: slice) -> Batch:
        """Some of the sequences."""
        covariates, visits, has_channel = self.covariates, self.visit_covariates, self.has_channel
        return Batch(
            self.frames[chosen],
            self.present[chosen],
            self.times[chosen],
            None if covariates is None else covariates[chosen],
            None if visits is None else visits[chosen],
            None if has_channel is None else has_channel[chosen],
            None if self.planned is None else self.planned[chosen],
        )


@dataclass(frozen=True)
class StepResult:
    """A worker's result of a step, still on its device.

    Attributes:
        losses: of each of its samples.
        t: their noise levels.
        grad_norm: of the whole batch, before clipping.
        used: whether the gradient was used; if not, `GradientGuard` refused it.
    """

    losses: Float[Tensor, " b"]
    t: Float[Tensor, " b"]
    grad_norm: float
    used: bool


def sample_losses(
    model: nn.Module, noise_size: tuple[int, ...], batch: Batch, rng: SampleRng, settings: TrainSettings
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Augment, draw a target and a noise level for every sequence; returns the loss and the level t of each."""
    frames = augment(batch.frames, settings.augment, rng)
    target_draw = draw_target(batch.present, rng, settings.imputation, settings.single_frame)
    t = rng.stratified("noise level")
    with autocast(batch.frames.device, settings.precision):
        losses = model(
            frames,
            target_draw.observed,
            batch.times,
            take(frames, target_draw.target),
            take(batch.times, target_draw.target),
            t,
            rng.normal("noise", noise_size),
            rng.uniform("dropout") < settings.condition_dropout,
            batch.covariates,
            batch.visit_covariates,
            batch.has_channel,
            None if batch.has_channel is None else take(batch.has_channel, target_draw.target),
            None if batch.planned is None else take(batch.planned, target_draw.target),
        )
    return losses, t


def add_gradients(
    train_state: TrainState, batch: Batch, rng: SampleRng, settings: TrainSettings, micro_batch: int | None = None
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The gradient of the mean loss over the whole batch, of which this worker has `batch`.

    Args:
        rng: of these samples; it knows the size of the whole batch.
        micro_batch: samples at a time; none: all.

    Returns:
        the loss of each sample and its noise level.
    """
    size = len(batch.frames)
    noise_size = train_state.bare.noise_size(batch.frames.shape[-3:])
    micro_batch = micro_batch or size
    parts = []
    for start in range(0, size, micro_batch):
        part = slice(start, start + micro_batch)
        with train_state.accumulating(last=start + micro_batch >= size):
            losses, t = sample_losses(train_state.model, noise_size, batch.part(part), rng.subset(part), settings)
            # Gradients are averaged over workers, whose numbers of samples may differ: hence sum × workers / batch.
            (losses.sum() * (train_state.world / rng.batch_size)).backward()
        parts.append((losses.detach(), t))
    all_losses, all_t = zip(*parts, strict=True)
    return torch.cat(all_losses), torch.cat(all_t)


def train_step(
    train_state: TrainState,
    guard: GradientGuard,
    batch: Batch,
    rng: SampleRng,
    settings: TrainSettings,
    step: int,
    micro_batch: int | None = None,
) -> StepResult:
    """Take one optimizer step and update the averages, unless the guard refuses the gradient.

    Args:
        step: counted from 0; sets the learning rate.
        rng, micro_batch: as in `add_gradients`.
    """
    losses, t = add_gradients(train_state, batch, rng, settings, micro_batch)
    norm = train_state.clip(settings.clip_norm)
    used = guard.accepts(norm)
    if used:
        train_state.update(learning_rate(step, settings))
    train_state.optimizer.zero_grad()
    return StepResult(losses, t, norm, used)
