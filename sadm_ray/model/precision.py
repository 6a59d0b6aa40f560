"""Which numbers the networks compute with: weights are float32 always, products may be bfloat16."""

from __future__ import annotations

import contextlib

import torch

from sadm_ray.config import Precision


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context to call a network in. `auto` is bfloat16 where the device has units for it, else float32."""
    wanted = precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else contextlib.nullcontext()


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32: GPUs from Ampere on, CPUs with AMX tiles."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def has_wrong_gradients(device: torch.device) -> bool:
    """Whether gradients in bfloat16 are wrong: on CPUs with AVX512-BF16 but without AMX, such as AMD's EPYC.

    They would be 1.7 times faster, but there PyTorch 2.13 returns memory that was never written to as gradient of
    3×3×3 kernels on grids of 2 × 8 × 8: infinite, NaN or, worse, neither.
    """
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
