"""EMA: exponential moving averages of the weights, which are used after training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sadm_ray.train.fsdp import as_shard, local_shard


class ExponentialMovingAverage:
    """An exponential moving average of the weights whose decay warms up: min(decay, (1 + n) / (10 + n))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = [local_shard(p).detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the weights of `model`."""
        n = self.updates
        keep = min(self.decay, (1.0 + n) / (10.0 + n)) if n else 0.0
        torch._foreach_lerp_(self.weights, [local_shard(p) for p in model.parameters()], 1.0 - keep)
        self.updates += 1

    def tensors(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The averages by parameter name, sharded as the parameters are."""
        both = zip(parameters.items(), self.weights, strict=True)
        return {name: as_shard(p, weight) for (name, p), weight in both}
