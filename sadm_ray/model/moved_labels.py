"""Label maps that move with the anatomy: a displacement field that moves an image moves its structures, too.

Structures are given as the share of each voxel that they fill (`sadm_ray.data.label_maps.Shares`). So voxels on a
border count in part, and a structure may grow or shrink by less than a voxel.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sadm_ray.model.displacement_field import warp


def move_shares(
    shares: Float[Tensor, "b s d h w"], field: Float[Tensor, "b 3 d h w"], at_once: int = 8
) -> Float[Tensor, "b s d h w"]:
    """The shares of structures in the image that `field` makes of theirs (`displacement_field.warp`).

    Places outside the volume have what its nearest voxel has. Of a field without motion they stay as they are.

    Args:
        field: in voxels along d, h, w; where each voxel of the result looks its share up, seen from its own place.
        at_once: so many structures are looked up together, which bounds the memory.
    """
    return torch.cat([warp(some, field) for some in shares.split(at_once, dim=1)], dim=1)


def share_voxels(shares: Float[Tensor, "b s d h w"]) -> Float[Tensor, "b s"]:
    """The volume of each structure in voxels of the grid, summed in float64."""
    return shares.double().sum(dim=(2, 3, 4))


def fullest(shares: Float[Tensor, "b s d h w"]) -> Int[Tensor, "b d h w"]:
    """Of each voxel the number (from 1) of the structure that fills the most of it; 0 where the background does."""
    background = 1 - shares.sum(dim=1, keepdim=True)
    return torch.cat([background, shares], dim=1).argmax(dim=1)
