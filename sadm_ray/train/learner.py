"""What is trained and what training needs beside it: weights, their averages, the optimizer; whole or in shards.

The same few verbs for one worker, for DDP (every worker has all) and for FSDP2 (every worker has a shard of each
tensor). What is saved is whole either way, so that a run may go on in another way or with other workers.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from sadm_ray.config import TrainSettings
from sadm_ray.model.kinds import build_model
from sadm_ray.model.layers import Stage
from sadm_ray.model.sequence_model import SequenceModel, ema_name
from sadm_ray.train.optimizer import Moments, Optimizer

State = dict[str, dict[str, Tensor]]
"""Whole tensors on the CPU: file → name → tensor."""

WEIGHTS, OPTIMIZER = "weights", "optimizer"


class Learner:
    """A model in training.

    Attributes:
        bare: the model itself.
        model: what is called; `bare`, or a wrapper around it.
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
            self.model = _sharded(bare)
        self.optimizer = Optimizer(bare, settings)
        self.averages = {decay: Average(bare, decay) for decay in settings.ema_decays}

    @contextlib.contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """For a part of the batch: workers exchange gradients with the last part only."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            with self.model.no_sync():
                yield
            return
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(last)
        yield

    def clip(self, limit: float) -> float:
        """Bound the norm of the gradient; returns what it was."""
        norm = nn.utils.clip_grad_norm_(self.bare.parameters(), limit)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def update(self, rate: float) -> None:
        """One optimizer step with this learning rate, then the averages."""
        self.optimizer.step(rate)
        for average in self.averages.values():
            average.update(self.bare)

    def state(self, keep: bool = True) -> State:
        """Copies of everything, whole and on the CPU. All workers call it; `keep`: whether this one wants them."""
        parameters = dict(self.bare.named_parameters())
        moments = {
            f"{moment}.{name}": tensor for name, p in parameters.items()
            for moment, tensor in self.optimizer.moments(p).items()
        }  # fmt: skip
        state = {WEIGHTS: _whole(parameters, keep), OPTIMIZER: _whole(moments, keep)}
        for decay, average in self.averages.items():
            state[ema_name(decay)] = _whole(average.tensors(parameters), keep)
            state[OPTIMIZER][f"updates.{ema_name(decay)}"] = torch.tensor(average.updates)
        return state

    def restore(self, state: State) -> None:
        """Put back what `state` told."""
        parameters = dict(self.bare.named_parameters())
        moments: dict[str, Moments] = defaultdict(dict)
        for key, tensor in state[OPTIMIZER].items():
            moment, _, name = key.partition(".")
            moments[name][moment] = tensor
        for name, p in parameters.items():
            _fill(p, state[WEIGHTS][name])
            self.optimizer.restore(p, moments[name], _fill)
        for decay, average in self.averages.items():
            average.updates = int(moments[ema_name(decay)]["updates"])
            for name, tensor in average.tensors(parameters).items():
                _fill(tensor, state[ema_name(decay)][name])

    @torch.no_grad()
    def averaged(self, decay: float) -> SequenceModel:
        """A model of its own, whole, with the average's weights. All workers call it."""
        parameters = dict(self.bare.named_parameters())
        model = build_model(self.bare.config).to(next(iter(parameters.values())).device).eval()
        mine = dict(model.named_parameters())
        for name, tensor in self.averages[decay].tensors(parameters).items():
            mine[name].copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)
        return model


class Average:
    """An exponential moving average of the weights whose decay warms up: min(decay, (1 + n) / (10 + n))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = [_local(p).detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model`."""
        n = self.updates
        keep = min(self.decay, (1.0 + n) / (10.0 + n)) if n else 0.0
        torch._foreach_lerp_(self.weights, [_local(p) for p in model.parameters()], 1.0 - keep)
        self.updates += 1

    def tensors(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The averages by the names of their parameters, in shards where those are."""
        both = zip(parameters.items(), self.weights, strict=True)
        return {name: _as(p, weight) for (name, p), weight in both}


def _sharded(model: SequenceModel) -> nn.Module:
    """FSDP2: every stage gathers its weights when it is called, and all that is left with the whole model."""
    for module in model.modules():
        if isinstance(module, Stage):
            fully_shard(module)
    fully_shard(model)  # in place: the class changes, the object stays
    return model


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _as(like: Tensor, local: Tensor) -> Tensor:
    """A local tensor as a shard of a whole that is laid out like `like`."""
    if not isinstance(like, DTensor):
        return local
    return DTensor.from_local(local, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())


def _whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    whole = {}
    for name, tensor in tensors.items():
        gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            whole[name] = gathered.detach().to("cpu", copy=True).contiguous()
    return whole


@torch.no_grad()
def _fill(tensor: Tensor, whole: Tensor) -> None:
    if isinstance(tensor, DTensor):
        shard = distribute_tensor(whole.to(tensor.device), tensor.device_mesh, tensor.placements)
        tensor.to_local().copy_(shard.to_local())
    else:
        tensor.copy_(whole)
