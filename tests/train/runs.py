"""Training runs without Ray: the steps of the training loop, in one process or in several connected by gloo."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from sadm_ray.config import ConditionerSettings, DenoiserSettings, ModelSettings, NetworkSettings, TrainSettings
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.registry import build_model
from sadm_ray.train.data_loader import batch_positions
from sadm_ray.train.gradient_guard import GradientGuard
from sadm_ray.train.train_state import TrainState
from sadm_ray.train.train_step import Batch, StepResult, train_step

SETTINGS = TrainSettings(steps=10, batch_size=4, warmup_steps=2, learning_rate=1e-3, ema_decays=(0.9, 0.5))


def model(**settings: Any) -> SequenceModel:
    torch.manual_seed(0)
    small = ModelSettings(
        difference_scale=0.2,
        conditioner=ConditionerSettings(widths=(8, 16), heads=2, layers=1, channels=4),
        prior=NetworkSettings(widths=(16, 16), blocks=1, heads=2),
        denoiser=DenoiserSettings(widths=(16, 16), blocks=1, heads=2),
        **settings,
    )
    return build_model(ModelConfig(shape=(4, 16, 16), model=small))


def batch(size: int = SETTINGS.batch_size) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        torch.rand(size, 4, 1, 4, 16, 16, generator=generator),
        torch.ones(size, 4, dtype=torch.bool),
        torch.linspace(0, 1, 4).expand(size, 4),
    )


class Run:
    """One worker of a run, with the same batch at every step."""

    def __init__(self, settings: TrainSettings = SETTINGS, rank: int = 0, world: int = 1, **of_model: Any) -> None:
        self.settings, self.guard = settings, GradientGuard(settings)
        self.positions = batch_positions(rank, world, settings.batch_size)
        self.train_state = TrainState(model(**of_model), settings, world)

    def step(self, step: int, micro_batch: int | None = None, whole: Batch | None = None) -> StepResult:
        rng = SampleRng(0, step, self.positions, self.settings.batch_size)
        mine = (whole or batch()).part(slice(self.positions.start, self.positions.stop))
        return train_step(self.train_state, self.guard, mine, rng, self.settings, step, micro_batch)

    def steps(self, first: int, last: int, micro_batch: int | None = None) -> list[float]:
        return [self.step(step, micro_batch).losses.mean().item() for step in range(first, last)]


def in_processes(world: int, function: Callable[[int, int, Path], None], folder: Path) -> None:
    """Call `function(rank, world, folder)` in processes that gloo connects.

    They are forks of a process that has imported PyTorch and does nothing else: those of the first call take seconds,
    all later ones a moment.
    """
    optimizers = "torch._dynamo", "torch.distributed.fsdp"  # which PyTorch imports when the first one is made
    multiprocessing.set_forkserver_preload([__name__, function.__module__, *optimizers])
    torch.multiprocessing.start_processes(
        _connected, args=(world, function, folder), nprocs=world, start_method="forkserver"
    )


def _connected(rank: int, world: int, function: Callable[[int, int, Path], None], folder: Path) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    try:
        function(rank, world, folder)
    finally:
        torch.distributed.destroy_process_group()
