"""The train state: the model's weights, their moving averages and the optimizer; whole or in shards.

The same methods serve one worker, DDP (every worker has everything) and FSDP2 (every worker has a shard of each
tensor). Whole tensors are saved either way, so that a run can be resumed with another strategy or other workers.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sadm_ray.config import TrainSettings
from sadm_ray.model.base_model import SequenceModel, ema_name
from sadm_ray.model.registry import build_model
from sadm_ray.train.ema import ExponentialMovingAverage
from sadm_ray.train.fsdp import fill, is_shard, shard_model, whole_tensors
from sadm_ray.train.optimizer import Moments, Optimizer

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

StateTensors = dict[str, dict[str, Tensor]]
"""Whole tensors on the CPU: file → name → tensor."""

WEIGHTS, OPTIMIZER = "weights", "optimizer"


class TrainState:
    """A model in training.

    Attributes:
        bare: the model itself.
        model: the module to call: `bare`, or DDP or FSDP around it.
        world: how many workers share each batch.
    """

    def __init__(self, bare: SequenceModel, settings: TrainSettings, world: int = 1) -> None:
        self.bare, self.world = bare, world
        self.sharded = world > 1 and settings.parallel == "fsdp"
        self.model: nn.Module = bare
        if world > 1 and not self.sharded:
            device = next(bare.parameters()).device
            ids = [device.index] if device.type == "cuda" else None
            self.model = DistributedDataParallel(bare, device_ids=ids, gradient_as_bucket_view=True)
        elif self.sharded:
            self.model = shard_model(bare)
        self.optimizer = Optimizer(bare, settings)
        self.averages = {decay: ExponentialMovingAverage(bare, decay) for decay in settings.ema_decays}

    @contextlib.contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """For one micro-batch: workers exchange gradients with the last one only."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            with self.model.no_sync():
                yield
            return
        if self.sharded:
            cast("FSDPModule", self.model).set_requires_gradient_sync(last)
        yield

    def clip(self, limit: float) -> float:
        """Clip the norm of the gradient; returns the norm before."""
        norm = nn.utils.clip_grad_norm_(self.bare.parameters(), limit)
        return float(norm.full_tensor() if is_shard(norm) else norm)

    def update(self, rate: float) -> None:
        """One optimizer step with this learning rate, then the averages."""
        self.optimizer.step(rate)
        for average in self.averages.values():
            average.update(self.bare)

    def state(self, keep: bool = True) -> StateTensors:
        """Copies of everything, whole and on the CPU. All workers call it; `keep`: whether this one wants them."""
        parameters = dict(self.bare.named_parameters())
        moments = {
            f"{moment}.{name}": tensor for name, p in parameters.items()
            for moment, tensor in self.optimizer.moments(p).items()
        }  # fmt: skip
        state = {WEIGHTS: whole_tensors(parameters, keep), OPTIMIZER: whole_tensors(moments, keep)}
        for decay, average in self.averages.items():
            state[ema_name(decay)] = whole_tensors(average.tensors(parameters), keep)
            state[OPTIMIZER][f"updates.{ema_name(decay)}"] = torch.tensor(average.updates)
        return state

    def restore(self, state: StateTensors) -> None:
        """Load what `state` returned."""
        parameters = dict(self.bare.named_parameters())
        moments: dict[str, Moments] = defaultdict(dict)
        for key, tensor in state[OPTIMIZER].items():
            moment, _, name = key.partition(".")
            moments[name][moment] = tensor
        for name, p in parameters.items():
            fill(p, state[WEIGHTS][name])
            self.optimizer.restore(p, moments[name], fill)
        for decay, average in self.averages.items():
            average.updates = int(moments[ema_name(decay)]["updates"])
            for name, tensor in average.tensors(parameters).items():
                fill(tensor, state[ema_name(decay)][name])

    @torch.no_grad()
    def averaged(self, decay: float) -> SequenceModel:
        """A new, whole model with the averaged weights. All workers call it."""
        parameters = dict(self.bare.named_parameters())
        model = build_model(self.bare.config).to(next(iter(parameters.values())).device).eval()
        mine = dict(model.named_parameters())
        for name, tensor in self.averages[decay].tensors(parameters).items():
            mine[name].copy_(tensor.full_tensor() if is_shard(tensor) else tensor)
        return model
