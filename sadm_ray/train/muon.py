"""Muon in float32, which multiplies by the long side of a matrix twice only."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """PyTorch's Muon with the size of AdamW's steps, its products in float32; the optimizer state is the same.

    PyTorch multiplies the long side of the matrix twice in each of five iterations, in bfloat16. There directions in
    which the gradient is next to nothing become noise, and a CPU without AVX512-BF16 or AMX multiplies number by
    number.
    """

    def __init__(self, params: Any, weight_decay: float) -> None:
        super().__init__(params, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # PyTorch's has overloads for both kinds of closure
        """One update; `closure` is evaluated before it, as PyTorch's optimizers do."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
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

    Each step is the odd polynomial X ← a X + S X, S = b G + c G², G = X Xᵀ (Newton and Schulz's iteration, with the
    coefficients of Jordan et al., 2024), on the side of the shorter axis. All of them are polynomials in the first G,
    and G itself follows from step to step. So X, whose other axis may be long, is multiplied at the end alone, by
    what the steps add up to: α + M.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=eps)
    a, b, c = coefficients
    gram = x @ x.T
    alpha, more = 1.0, torch.zeros_like(gram)
    for _ in range(steps):
        square = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        alpha, more = a * alpha, torch.addmm(torch.add(a * more, square, alpha=alpha), square, more)
        half_way = torch.addmm(gram, square, gram, beta=a)
        gram = torch.addmm(half_way, half_way, square, beta=a)
    x = torch.addmm(x, more, x, beta=alpha)
    return x.T if is_tall else x
