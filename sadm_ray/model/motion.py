"""Motion compensation: moving the nearest observed frame instead of painting what moved.

The denoiser also predicts a displacement field, and (warp(reference) − reference) / scale becomes what is expected of x
before looking at z (the mean of `sadm_ray.diffusion.posterior`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def warp(volume: Float[Tensor, "b c d h w"], field: Float[Tensor, "b 3 d h w"]) -> Float[Tensor, "b c d h w"]:
    """Look up each voxel of the result at its own place plus `field` (in voxels, axes d h w), trilinearly.

    Places outside the volume take its nearest voxel.
    """
    sizes = volume.shape[-3:]
    axes = [torch.arange(size, device=volume.device, dtype=field.dtype) for size in sizes]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")) + field
    # grid_sample wants the last axis first, with −1 and 1 at the outer faces of the first and last voxel.
    scaled = [(2.0 * places[:, axis] + 1.0) / sizes[axis] - 1.0 for axis in (2, 1, 0)]
    grid = torch.stack(scaled, dim=-1).to(volume.dtype)
    return F.grid_sample(volume, grid, mode="bilinear", padding_mode="border", align_corners=False)
