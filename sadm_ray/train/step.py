"""One training step: plain PyTorch that knows nothing of Ray.

Its result does not depend on how many workers share the batch, nor on how many samples they take at a time: what is
random follows from a sample's place in the whole batch (`Chance`), and gradients are sums over samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sadm_ray.config import TrainSettings
from sadm_ray.data.augment import augment
from sadm_ray.data.chance import Chance
from sadm_ray.data.sequence import draw_question, take
from sadm_ray.model.precision import autocast
from sadm_ray.train.guard import Guard
from sadm_ray.train.learner import Learner

LEVELS = 5
"""The noise levels t in [0, 1] are told apart in so many equal parts."""


@dataclass(frozen=True)
class Batch:
    """Whole sequences; the question is drawn anew at every step."""

    frames: Float[Tensor, "b t c d h w"]
    present: Bool[Tensor, "b t"]
    times: Float[Tensor, "b t"]
    covariates: Float[Tensor, "b n"] | None = None
    visit_covariates: Float[Tensor, "b t m"] | None = None

    def part(self, chosen: slice) -> Batch:
        """Some of the sequences."""
        covariates, visits = self.covariates, self.visit_covariates
        return Batch(
            self.frames[chosen],
            self.present[chosen],
            self.times[chosen],
            None if covariates is None else covariates[chosen],
            None if visits is None else visits[chosen],
        )


@dataclass(frozen=True)
class Measured:
    """What a worker saw in a step, still on its device.

    Attributes:
        losses: of each of its samples.
        t: their noise levels.
        grad_norm: of the whole batch, before clipping.
        used: whether the step was taken; else the gradients were bad (`Guard`).
    """

    losses: Float[Tensor, " b"]
    t: Float[Tensor, " b"]
    grad_norm: float
    used: bool


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then constant or a half cosine to zero at the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def sample_losses(
    model: nn.Module, noise_size: tuple[int, ...], batch: Batch, chance: Chance, settings: TrainSettings
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Augment, draw a question and a noise level for every sequence: the loss of each, and its level t."""
    frames = augment(batch.frames, settings.augment, chance)
    question = draw_question(batch.present, chance, settings.imputation, settings.single)
    t = chance.spread("noise level")
    with autocast(batch.frames.device, settings.precision):
        losses = model(
            frames,
            question.observed,
            batch.times,
            take(frames, question.target),
            take(batch.times, question.target),
            t,
            chance.normal("noise", noise_size),
            chance.uniform("dropout") < settings.condition_dropout,
            batch.covariates,
            batch.visit_covariates,
        )
    return losses, t


def add_gradients(
    learner: Learner, batch: Batch, chance: Chance, settings: TrainSettings, micro_batch: int | None = None
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The gradient of the mean loss over the whole batch, of which this worker has `batch`.

    Args:
        chance: of these samples; it knows how many the whole batch has.
        micro_batch: so many samples at a time.

    Returns:
        the loss of each sample and its noise level.
    """
    size = len(batch.frames)
    noise_size = learner.bare.noise_size(batch.frames.shape[-3:])
    micro_batch = micro_batch or size
    seen = []
    for start in range(0, size, micro_batch):
        part = slice(start, start + micro_batch)
        with learner.accumulating(last=start + micro_batch >= size):
            losses, t = sample_losses(learner.model, noise_size, batch.part(part), chance.part(part), settings)
            # Workers average their gradients, whose samples may differ in number: hence a sum and their count.
            (losses.sum() * (learner.world / chance.batch)).backward()
        seen.append((losses.detach(), t))
    all_losses, all_t = zip(*seen, strict=True)
    return torch.cat(all_losses), torch.cat(all_t)


def train_step(
    learner: Learner,
    guard: Guard,
    batch: Batch,
    chance: Chance,
    settings: TrainSettings,
    step: int,
    micro_batch: int | None = None,
) -> Measured:
    """Take one optimizer step and update the averages, unless the gradients are bad.

    Args:
        step: counted from 0; sets the learning rate.
        chance, micro_batch: as in `add_gradients`.
    """
    losses, t = add_gradients(learner, batch, chance, settings, micro_batch)
    norm = learner.clip(settings.clip_norm)
    used = guard.accepts(norm)
    if used:
        learner.update(learning_rate(step, settings))
    learner.optimizer.zero_grad()
    return Measured(losses, t, norm, used)
