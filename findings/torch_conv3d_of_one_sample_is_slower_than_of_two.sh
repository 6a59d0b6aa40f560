#!/usr/bin/env bash
# On a CPU a float32 `conv3d` of one small sample takes PyTorch longer than that of two such samples together: for one
# sample it leaves out oneDNN where batch × channels × depth × height is at most 20480, and convolves by itself. The
# width does not count, so nor does how large the sample really is. A 3D network at batch 1, on the coarser grids of a
# U-Net, is affected in most of its layers, forward and backward, with one thread or more.
# Adding a sample of zeros, and dropping its result, makes such a layer about twice as fast.
#
# Exits 0 while that is so, 1 when PyTorch behaves otherwise, 2 when the packages cannot be installed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 || exit 2

cat >"$folder/time.py" <<'PYTHON'
import sys
import time

import torch

torch.set_num_threads(1)
torch.manual_seed(0)
layer = torch.nn.Conv3d(64, 64, 3, padding=1)


def seconds(samples: int, width: int) -> float:
    """The least CPU time of a forward and backward pass."""
    volume = torch.randn(samples, 64, 8, 16, width, requires_grad=True)
    spent = []
    for _ in range(8):
        start = time.process_time()
        layer(volume).sum().backward()
        spent.append(time.process_time() - start)
    return min(spent)


print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, oneDNN: {torch.backends.mkldnn.is_available()}")
ratios = []
for width in (16, 64):
    one, two = seconds(1, width), seconds(2, width)
    ratios.append(one / two)
    print(f"64 channels of 8 x 16 x {width}: one sample {one * 1e3:.1f} ms, two samples {two * 1e3:.1f} ms")
same = min(ratios) > 1.2
print("as found: one sample takes longer than two" if same else "CHANGED: PyTorch behaves otherwise now")
sys.exit(not same)
PYTHON

"$folder/venv/bin/python" "$folder/time.py"
