"""Label maps that move with the anatomy: a displacement field that moves an image moves its structures, too.

Structures are given as the share of each voxel that they fill (`sadm_ray.data.label_maps.Shares`). So voxels on a
border count in part, and a structure may grow or shrink by less than a voxel.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.model.displacement_field import warp
from sadm_ray.model.registration import register

AT_ONCE = 8
"""So many structures are looked up together, which bounds the memory."""


class LabelledSequence:
    """The label maps of the observed frames of one sequence, which move as the frames do.

    A frame without a label map gets that of the nearest one in time that has one, by registration.

    Args:
        frames: of the sequence; only observed ones are read.
        times: of each.
        shares: of each frame that has a label map, by its slot; one at least.
    """

    def __init__(
        self,
        frames: Float[Tensor, "t c d h w"],
        times: Float[Tensor, " t"],
        shares: Mapping[int, Float[Tensor, "n d h w"]],
    ) -> None:
        self._frames, self._times, self._shares = frames, times, dict(shares)
        self._labelled = tuple(shares)

    def at(self, slot: int) -> Float[Tensor, "n d h w"]:
        """The shares of an observed frame."""
        if slot not in self._shares:
            nearest = min(self._labelled, key=lambda each: abs(float(self._times[each] - self._times[slot])))
            field = register(self._frames[nearest][None], self._frames[slot][None])
            self._shares[slot] = move_shares(self._shares[nearest][None], field)[0]
        return self._shares[slot]

    def moved(
        self, references: ReferenceFrames, row: int, fields: Float[Tensor, "s 3 d h w"]
    ) -> Float[Tensor, "n d h w"]:
        """The shares in a sample.

        Args:
            references: of samples, with their `places`.
            row: which of these.
            fields: that move its reference frames.

        Raises:
            ValueError: these have no places.
        """
        if references.places is None:
            raise ValueError("the places of the reference frames in their sequence are not known")
        moved = torch.zeros_like(next(iter(self._shares.values())))
        ways, weights = references.ways[row], references.weights[row].tolist()
        for place, weight, way, field in zip(references.places[row].tolist(), weights, ways, fields, strict=True):
            if weight:
                moved += weight * move_shares(move_shares(self.at(place)[None], way[None]), field[None])[0]
        return moved


def move_shares(
    shares: Float[Tensor, "b s d h w"], field: Float[Tensor, "b 3 d h w"], at_once: int = AT_ONCE
) -> Float[Tensor, "b s d h w"]:
    """The shares of structures in the image that `field` makes of theirs (`displacement_field.warp`).

    Places outside the volume have what its nearest voxel has. Of a field without motion they stay as they are.

    Args:
        field: in voxels along d, h, w; where each voxel of the result looks its share up, seen from its own place.
    """
    if not field.any():
        return shares
    return torch.cat([warp(some, field) for some in shares.split(at_once, dim=1)], dim=1)


def share_voxels(shares: Float[Tensor, "b s d h w"]) -> Float[Tensor, "b s"]:
    """The volume of each structure in voxels of the grid, summed in float64."""
    return shares.double().sum(dim=(2, 3, 4))


def fullest(shares: Float[Tensor, "b s d h w"]) -> Int[Tensor, "b d h w"]:
    """Of each voxel the number (from 1) of the structure that fills the most of it; 0 where the background does."""
    background = 1 - shares.sum(dim=1, keepdim=True)
    return torch.cat([background, shares], dim=1).argmax(dim=1)
