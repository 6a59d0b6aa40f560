"""The structures of generated samples: those of an observed label map, moved as the anatomy moves in each sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sadm_ray.data.label_maps import LabelMaps, PreparedLabels
from sadm_ray.model.moved_labels import fullest, move_shares, share_voxels


@dataclass(frozen=True, eq=False)
class MovedStructures:
    """The structures of the samples of one frame.

    Attributes:
        structures: the label of each structure by its name.
        shares: of each sample, how much of each voxel of the prepared grid every structure fills.
        voxels: the volume of each in voxels of the prepared grid.
        own_voxels: how many voxels of the subject's own grid one of these is.
    """

    structures: Mapping[str, int]
    shares: Float[np.ndarray, "n s d h w"]
    voxels: Float[np.ndarray, "n s"]
    own_voxels: float

    def label_map(self, sample: int | None = None) -> PreparedLabels:
        """The labels of a sample (from 0); None: of the mean of all of them."""
        shares = self.shares.mean(axis=0) if sample is None else self.shares[sample]
        voxels = self.voxels.mean(axis=0) if sample is None else self.voxels[sample]
        values = np.array([0, *self.structures.values()], dtype=np.int32)
        labels = values[fullest(torch.from_numpy(shares)[None])[0].numpy()]
        volumes = dict(zip(self.structures, (voxels * self.own_voxels).tolist(), strict=True))
        return PreparedLabels(labels, {value: name for name, value in self.structures.items()}, volumes)


def move_structures(maps: LabelMaps, slot: int, fields: Float[Tensor, "n 3 d h w"]) -> MovedStructures | None:
    """Move the structures of an observed slot along the displacement field of each sample; None without its label map.

    Args:
        maps: of the subject.
        slot: the reference frame that the fields move.
        fields: in voxels of the prepared grid (`displacement_field.warp`): that of a sample makes it of the frame.
    """
    seen = maps.shares_at(slot)
    if seen is None:
        return None
    one = torch.from_numpy(seen.shares)[None].to(fields.device)
    moved = torch.cat([move_shares(one, field[None]) for field in fields])
    structures = dict(zip(seen.structures, seen.values, strict=True))
    return MovedStructures(structures, moved.cpu().numpy(), share_voxels(moved).cpu().numpy(), maps.own_voxels)
