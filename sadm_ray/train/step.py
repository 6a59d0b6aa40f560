"""One training step: plain PyTorch that knows nothing of Ray."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sadm_ray.config import TrainSettings
from sadm_ray.data.augment import augment
from sadm_ray.data.sequence import draw_question, take
from sadm_ray.model.precision import autocast

Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class Batch:
    """Whole sequences; the question is drawn anew at every step."""

    frames: Float[Tensor, "b t c d h w"]
    present: Bool[Tensor, "b t"]
    times: Float[Tensor, "b t"]
    covariates: Float[Tensor, "b n"] | None = None
    visit_covariates: Float[Tensor, "b t m"] | None = None


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for one step of one worker: all its randomness starts here, so a resume needs no saved generators."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then a half cosine to zero at the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights whose decay warms up: min(decay, (1 + n) / (10 + n))."""

    def update(averages: Tensors, weights: Tensors, count: Tensor | int) -> None:
        n = float(count)
        torch._foreach_lerp_(averages, weights, 1.0 - min(decay, (1.0 + n) / (10.0 + n)))

    return AveragedModel(model, multi_avg_fn=update)


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW; norms and biases are not decayed."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), foreach=True)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: AveragedModel,
    batch: Batch,
    settings: TrainSettings,
    step: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Augment, draw a question for every sequence, take one optimizer step, update the EMA.

    Args:
        model: `Sadm`, or a wrapper around it (DDP, compiled) with the same forward.
        ema: the average of the unwrapped model.
        step: counted from 0; sets the learning rate.
        generator: on the model's device; all randomness comes from it.

    Returns:
        `loss` and `grad_norm`, detached and still on the device.
    """
    frames = augment(batch.frames, settings.augment, generator)
    question = draw_question(batch.present, generator, settings.imputation)
    rate = learning_rate(step, settings)
    for group in optimizer.param_groups:
        group["lr"] = rate
    with autocast(batch.frames.device, settings.precision):
        loss = model(
            frames,
            question.observed,
            batch.times,
            take(frames, question.target),
            take(batch.times, question.target),
            generator,
            settings.condition_dropout,
            batch.covariates,
            batch.visit_covariates,
        ).mean()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    ema.update_parameters(getattr(model, "module", model))
    return {"loss": loss.detach(), "grad_norm": norm.detach()}
