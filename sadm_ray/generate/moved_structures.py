"""The structures of generated visits: those of the observed label maps, moved as the anatomy moves in each sample."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32

from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.data.label_maps import LabelMaps
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.encoded_sequence import EncodedSequences
from sadm_ray.model.moved_labels import LabelledSequence, fullest, share_voxels
from sadm_ray.model.sequence_rollout import MovedFrames

log = logging.getLogger(__name__)

AllShares = Float[np.ndarray, "m s n d h w"]
"""Of all targets and samples, how much of each voxel of the prepared grid every structure fills; float16."""


@dataclass(frozen=True, eq=False)
class ObservedStructures:
    """The structures of the observed visits that have a label map.

    Attributes:
        values: the label of each structure, by its name.
        shares: of each slot with a label map, how much of each voxel of the prepared grid every structure fills.
        own_voxels: how many voxels of the subject's own grid is one of the prepared grid.
        voxel_ml: of a voxel of the prepared grid; None where the sizes of voxels are not known.
    """

    values: Mapping[str, int]
    shares: Mapping[int, Float[np.ndarray, "n d h w"]]
    own_voxels: float
    voxel_ml: float | None


def observed_structures(
    row: Mapping[str, Any], slots: Sequence[int], files: LabelFiles | None
) -> ObservedStructures | None:
    """The structures of a subject's observed slots; None where none of them has a label map. One that cannot be used
    is told.

    Of several contrasts they are those of the first that has a label map: the structures of a visit.

    Args:
        row: of the subject (`sadm_ray.data.shards.subject_row.parse_row`).
        files: the study's label maps (`data.label_maps.labels_of`).
    """
    if files is None:
        return None
    for channel in range(len(row["contrasts"])):
        its = of_contrast(row, channel)
        maps = LabelMaps.of(its, files)
        found = {slot: maps.shares_at(slot) for slot in slots if its["present"][slot]}
        for line in maps.problems:
            log.warning("%s", line)
        known = {slot: shares for slot, shares in found.items() if shares is not None and shares.structures}
        if not known:
            continue
        values = {
            name: value for each in known.values() for name, value in zip(each.structures, each.values, strict=True)
        }
        shares = {slot: np.zeros((len(values), *each.shares.shape[1:]), np.float32) for slot, each in known.items()}
        for slot, each in known.items():
            shares[slot][[list(values).index(name) for name in each.structures]] = each.shares
        ml = None if maps.own_voxel_ml is None else maps.own_voxels * maps.own_voxel_ml
        return ObservedStructures(values, shares, maps.own_voxels, ml)
    return None


class StructureFollower:
    """Moves the structures of sequences while their samples are drawn (`SequenceModel.roll_out`).

    `moved`: of each sequence, the shares of all targets and samples; None without structures, or where the model does
    not move the frames.
    """

    def __init__(
        self,
        model: SequenceModel,
        encoded: EncodedSequences,
        structures: Sequence[ObservedStructures | None],
        targets: int,
        samples: int,
    ) -> None:
        self._size, self._shape = encoded.size, (targets, samples)
        self._sequences = [
            None if each is None else _labelled(model, encoded, row, each) for row, each in enumerate(structures)
        ]
        self.moved: list[AllShares | None] = [None] * len(structures)

    def __call__(self, moved: MovedFrames) -> None:
        d, h, w = self._size
        for row, (sample, sequence, target) in enumerate(
            zip(moved.samples, moved.sequences, moved.targets, strict=True)
        ):
            labelled = self._sequences[sequence]
            if labelled is None:
                continue
            shares = labelled.moved(moved.references, row, moved.fields[row])[..., :d, :h, :w].cpu().numpy()
            known = self.moved[sequence]
            if known is None:
                known = self.moved[sequence] = np.zeros((*self._shape, *shares.shape), np.float16)
            known[target, sample % self._shape[1]] = shares


def _labelled(
    model: SequenceModel, encoded: EncodedSequences, row: int, structures: ObservedStructures
) -> LabelledSequence:
    frames = encoded.frames[row]
    shares = {slot: model.padded(torch.from_numpy(each).to(frames.device)) for slot, each in structures.shares.items()}
    return LabelledSequence(frames, encoded.times[row], shares)


@dataclass(frozen=True, eq=False)
class MovedStructures:
    """The structures of one frame, as predicted.

    Attributes:
        observed: those that moved.
        estimate: how much of each voxel of the prepared grid every structure fills, moved without what samples differ
            by: on real hearts it is nearer to the truth than the mean of the samples.
        samples: the same of each sample.
    """

    observed: ObservedStructures
    estimate: Float[np.ndarray, "n d h w"]
    samples: Float[np.ndarray, "s n d h w"]

    @property
    def voxels(self) -> Float[np.ndarray, "k n"]:
        """The volume of each structure in the estimate, then in each sample, in voxels of the prepared grid."""
        every = [self.estimate, *self.samples]
        return np.array([share_voxels(torch.from_numpy(shares)[None])[0].numpy() for shares in every])

    @property
    def labels(self) -> Int32[np.ndarray, "d h w"]:
        """The label map of the estimate, on the prepared grid."""
        values = np.array([0, *self.observed.values.values()], dtype=np.int32)
        found: Int32[np.ndarray, "d h w"] = values[fullest(torch.from_numpy(self.estimate)[None])[0].numpy()]
        return found
