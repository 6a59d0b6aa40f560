"""Muon in float32, for devices that have no units for bfloat16."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sadm_ray.model.mixed_precision import has_bfloat16


class Muon(torch.optim.Muon):
    """PyTorch's Muon with the size of AdamW's steps, also where bfloat16 is slow.

    PyTorch multiplies matrices in bfloat16 on every device. A CPU without AVX512-BF16 or AMX does that number by
    number, a GPU older than Ampere by way of float32: there these products are in float32. The optimizer state is
    the same.
    """

    def __init__(self, params: Any, weight_decay: float) -> None:
        super().__init__(params, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # PyTorch's has overloads for both kinds of closure
        """One update; `closure` is evaluated before it, as PyTorch's optimizers do."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        if all(has_bfloat16(device) for device in {p.device for p in parameters}):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_in_float32(p, p.grad, group)
        return loss

    def _step_in_float32(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean, momentum = state["momentum_buffer"], group["momentum"]
        mean.lerp_(gradient, 1.0 - momentum)
        ahead = gradient.lerp(mean, momentum) if group["nesterov"] else mean
        direction = orthogonalised(ahead.float(), group["ns_coefficients"], group["ns_steps"], group["eps"])
        p.mul_(1.0 - group["lr"] * group["weight_decay"])
        p.add_(direction.to(p.dtype), alpha=-0.2 * math.sqrt(max(p.shape)) * group["lr"])


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The matrix with its singular values brought near 1, in its own precision.

    Each step is the odd polynomial X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X (Newton and Schulz's iteration, with the
    coefficients of Jordan et al., 2024), on the side of the shorter axis.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=eps)
    a, b, c = coefficients
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
