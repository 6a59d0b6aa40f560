#!/usr/bin/env bash
# `torch.optim.Muon` rounds the gradient of float32 weights to bfloat16 before it makes all of its directions equally
# long, on every device and without an option. The gradient of a layer has no more directions than the batch has
# samples; rounding gives it all the others, and they are then lengthened too. So after a batch of four samples a third
# of the step of a 64 × 256 layer (of its squared length) points where the gradient has nothing at all. The same
# iteration in float32 has next to nothing there.
# Who trains with small batches also walks along rounding errors, and two runs that share a batch in different ways part
# faster than float32 lets expect.
#
# Exits 0 while that is so, 1 when PyTorch behaves otherwise, 2 when the packages cannot be installed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 || exit 2

cat >"$folder/step.py" <<'PYTHON'
import sys

import torch

SAMPLES, OUTPUTS, INPUTS = 4, 64, 256
torch.manual_seed(0)
layer = torch.nn.Linear(INPUTS, OUTPUTS, bias=False)
inputs, wanted = torch.randn(SAMPLES, INPUTS), torch.randn(SAMPLES, OUTPUTS)
before = layer.weight.detach().clone()
optimizer = torch.optim.Muon(layer.parameters(), lr=0.1, weight_decay=0.0)
(layer(inputs) - wanted).square().mean().backward()
gradient = layer.weight.grad.clone()
optimizer.step()
step = before - layer.weight.detach()


def outside(step: torch.Tensor) -> float:
    """The share of the squared length of a step that is orthogonal to the inputs, so to every possible gradient."""
    _, _, along = torch.linalg.svd(inputs.double(), full_matrices=False)
    rest = step.double() - step.double() @ along.T @ along
    return float(rest.square().sum() / step.double().square().sum())


def in_float32(x: torch.Tensor) -> torch.Tensor:
    """The published iteration with PyTorch's default coefficients and number of steps."""
    group = optimizer.param_groups[0]
    a, b, c = group["ns_coefficients"]
    x = x / x.norm()
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


print(f"torch {torch.__version__}; {SAMPLES} samples, weights of {OUTPUTS} x {INPUTS} in {layer.weight.dtype}")
theirs, ours = outside(step), outside(in_float32(gradient))
print(f"share of the step where no gradient can point: torch.optim.Muon {theirs:.2f}, in float32 {ours:.0e}")
same = theirs > 0.2 and ours < 1e-4
print("as found: a good part of the step is rounding" if same else "CHANGED: PyTorch behaves otherwise now")
sys.exit(not same)
PYTHON

"$folder/venv/bin/python" "$folder/step.py"
