"""Which numbers the networks compute with: weights are float32 always, products may be bfloat16."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from sadm_ray.config import Precision


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context to call a network in. `auto` is bfloat16 where the device has units for it, else float32."""
    wanted = precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else contextlib.nullcontext()


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32: GPUs from Ampere on, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def gradients_want_padding(x: Tensor) -> bool:
    """Whether a 3×3×3 convolution of a volume of two slices has to be padded by us for its gradient to be right.

    On CPUs with AVX512-BF16 but without AMX, such as AMD's EPYC, PyTorch 2.13 (oneDNN) otherwise returns memory that
    was never written to as gradient of the kernel in bfloat16: infinite, NaN or, worse, neither.
    """
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.cpu._is_avx512_bf16_supported()
        and not torch.cpu._is_amx_tile_supported()
    )


def is_slower_alone(x: Tensor) -> bool:
    """Whether a 3×3×3 convolution of this one sample takes longer than of two.

    In float32 on a CPU PyTorch 2.13 leaves oneDNN to larger inputs and convolves small ones by itself, two to three
    times as slowly (findings/torch_conv3d_of_one_sample_is_slower_than_of_two.sh).
    """
    return (
        x.device.type == "cpu"
        and len(x) == 1
        and x.dtype == torch.float32
        and x.shape[:4].numel() <= 20480
        and not torch.is_autocast_enabled("cpu")
    )
