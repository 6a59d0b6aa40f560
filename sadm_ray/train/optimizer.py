"""The optimizer: Muon for matrices and kernels and AdamW for the rest, or AdamW for all.

Muon (Jordan et al., 2024) takes a step that is equally long in all directions of a matrix. Scaled to the size of
AdamW's steps (Liu et al., Muon is Scalable for LLM Training, 2025), one learning rate serves both. docs/experiments.md
shows its gain here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sadm_ray.config import TrainSettings
from sadm_ray.train.muon import Muon

Moments = dict[str, Tensor]
"""The optimizer state of a parameter, by torch's names."""


class Optimizer:
    """Updates the parameters of a model. Norms and biases are not decayed."""

    def __init__(self, model: nn.Module, settings: TrainSettings) -> None:
        self._parameters = list(model.parameters())
        weights = [p for p in self._parameters if p.ndim > 1]
        vectors = [p for p in self._parameters if p.ndim <= 1]
        groups = [{"params": vectors, "weight_decay": 0.0}]
        self._matrices: dict[nn.Parameter, nn.Parameter] = {}
        self._muon: Muon | None = None
        if settings.optimizer == "muon":
            # A matrix of one row has a single direction: Muon would only discard the size of its gradient.
            matrices, weights = [p for p in weights if len(p) > 1], [p for p in weights if len(p) == 1]
            self._matrices = {p: nn.Parameter(_as_matrix(p.detach(), p)) for p in matrices}
            self._muon = Muon(self._matrices.values(), settings.weight_decay)
        groups.append({"params": weights, "weight_decay": settings.weight_decay})
        self._adamw = torch.optim.AdamW(groups, betas=(0.9, 0.99), foreach=True)

    def step(self, rate: float) -> None:
        """One update with this learning rate."""
        for p, matrix in self._matrices.items():
            matrix.grad = None if p.grad is None else _as_matrix(p.grad, p)
        for optimizer in (self._adamw, self._muon):
            if optimizer is not None:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for p in (*self._parameters, *self._matrices.values()):
            p.grad = None

    def moments(self, p: nn.Parameter) -> Moments:
        """The optimizer state of a parameter; empty before its first update."""
        optimizer, parameter = self._of(p)
        return optimizer.state.get(parameter, {})

    def restore(self, p: nn.Parameter, moments: Mapping[str, Tensor], fill: Callable[[Tensor, Tensor], None]) -> None:
        """Load what `moments` returned of a parameter, as whole tensors.

        Args:
            fill: puts a whole tensor into one that may be a shard.
        """
        optimizer, parameter = self._of(p)
        for name, whole in sorted(moments.items()):  # all workers shard the tensors together, in one order
            mine = torch.zeros_like(parameter.detach()) if whole.ndim else whole.clone()
            if whole.ndim:
                fill(mine, whole)
            optimizer.state[parameter][name] = mine

    def _of(self, p: nn.Parameter) -> tuple[torch.optim.Optimizer, nn.Parameter]:
        if self._muon is not None and p in self._matrices:
            return self._muon, self._matrices[p]
        return self._adamw, p


def _as_matrix(tensor: Tensor, p: Tensor) -> Tensor:
    """As a matrix, outputs × everything else. Of a parameter it is a view: writing to it changes the parameter."""
    if p.is_contiguous():
        return tensor.flatten(1)
    return tensor.movedim(1, -1).flatten(1)
