"""Scores of labelled structures: Dice, the 95 % Hausdorff distance and volumes of a label map against the true one.

Both are on the prepared grid; volumes of what is observed are counted in the subject's own, as far as that reaches.
Structures go by their names, so that the tables of two label maps may number them differently.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from sadm_ray.data.label_maps import LabelMaps, PreparedLabels
from sadm_ray.evaluate.naive_baselines import last_observed
from sadm_ray.evaluate.score_tables import COPY_LAST, ESTIMATE
from sadm_ray.generate.structure_volumes import interval
from sadm_ray.generate.volume_corrections import NOT_CORRECTED, VolumeCorrection

Mask = Bool[np.ndarray, "d h w"]


def dice(truth: Mask, predicted: Mask) -> float:
    """Twice the common voxels over the voxels of both; 0 where one is empty, NaN where both are.

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(truth, predicted)
    both = int(truth.sum()) + int(predicted.sum())
    return 2 * int((truth & predicted).sum()) / both if both else math.nan


def hausdorff_95(truth: Mask, predicted: Mask, voxel_mm: Sequence[float]) -> float:
    """The 95 % Hausdorff distance in mm; NaN where one is empty or both are.

    From each voxel of one border to the nearest of the other; the larger of both directions' 95th percentiles, as MONAI
    has it. The border of a mask are its voxels with a face that is not of it; so are those at the end of the grid.

    Args:
        voxel_mm: the size of a voxel along d h w.

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(truth, predicted)
    if not (truth.any() and predicted.any()):
        return math.nan
    box = ndimage.find_objects((truth | predicted).astype(np.uint8))[0]
    borders = [_border(mask[box]) for mask in (truth, predicted)]
    distances = [
        ndimage.distance_transform_edt(~there, sampling=tuple(voxel_mm))[here]
        for here, there in (borders, borders[::-1])
    ]
    return max(float(np.percentile(each, 95)) for each in distances)


@dataclass(frozen=True)
class VolumeIntervals:
    """The intervals of the volumes of one frame at a level: those of its samples, and as calibration corrects them.

    Attributes:
        samples: the volumes of each structure, in voxels of the subject's own grid.
        corrections: of each structure; none of a model that is not calibrated.
    """

    level: float
    samples: Mapping[str, Float[np.ndarray, " s"]]
    corrections: Mapping[str, VolumeCorrection]

    def scores(self, name: str, true: float, voxel_ml: float) -> dict[str, float]:
        """Width, and whether the true volume is held, of both; NaN where there is no interval."""
        values, correction = self.samples.get(name, np.empty(0)), self.corrections.get(name, NOT_CORRECTED)
        found = {"interval_level": self.level if len(values) > 1 else math.nan}
        for kind, factor in (("interval", 1.0), ("corrected", correction.factor)):
            low, high = interval(values, self.level, factor)
            held = math.nan if math.isnan(low) else float(low <= true <= high)
            found |= {f"{kind}_ml": (high - low) * voxel_ml, f"{kind}_holds": held}
        return found | {"held_out": float(correction.subjects) if len(values) > 1 else math.nan}


NO_INTERVALS = VolumeIntervals(math.nan, {}, {})


def structure_rows(
    truth: PreparedLabels,
    predicted: Iterable[tuple[str, PreparedLabels]],
    maps: LabelMaps,
    intervals: VolumeIntervals | None = None,
) -> Iterator[dict[str, Any]]:
    """The scores of each method's label map against the true one (part of `score_tables.STRUCTURES_COLUMNS`).

    A structure that neither has gets no row. Where one of both lacks it, `empty` is 1, Dice is 0 and there is no
    distance. Where the sizes of voxels are not known there are no mm and no ml, only voxels of the scan's own grid.

    Args:
        predicted: label maps by method, on the same grid.
        maps: the subject's: its voxels.
        intervals: of the volumes in the samples.

    Raises:
        ValueError: the shapes differ.
    """
    for method, found in predicted:
        for name in dict.fromkeys([*truth.structures, *found.structures]):
            masks = truth.mask(name), found.mask(name)
            sizes = float(truth.volumes.get(name, 0)), float(found.volumes.get(name, 0))
            if not any(sizes) and not (masks[0].any() or masks[1].any()):
                continue
            voxel_ml = math.nan if maps.own_voxel_ml is None else maps.own_voxel_ml
            its = intervals if method == ESTIMATE else None
            scores = {
                "dice": dice(*masks),
                "hd95_mm": hausdorff_95(*masks, maps.voxel_mm) if maps.spacing_known else math.nan,
                **_volumes(*sizes, voxel_ml),
                "empty": float(not (masks[0].any() and masks[1].any())),
                **(its or NO_INTERVALS).scores(name, sizes[0], voxel_ml),
            }
            yield {"method": method, "structure": name, **scores}


def _volumes(true: float, predicted: float, voxel_ml: float) -> dict[str, float]:
    """Of volumes in voxels."""
    ml = {
        "true_ml": true * voxel_ml,
        "predicted_ml": predicted * voxel_ml,
        "error_ml": abs(predicted - true) * voxel_ml,
    }
    return {**ml, "true_voxels": true, "predicted_voxels": predicted}


def copied_labels(
    labels: LabelMaps, times: Float[np.ndarray, " t"], observed: Sequence[int], target: int
) -> Iterator[tuple[str, PreparedLabels]]:
    """Copy-last's label map: that of the last observed scan before the target that has one, else the nearest in time.

    That need not be the scan which copy-last copies: of a cine few frames are labelled.
    """
    labelled = [slot for slot in observed if slot != target and labels.at(slot) is not None]
    if labelled:
        copied = labels.at(last_observed(labelled, times, target))
        if copied is not None:
            yield COPY_LAST, copied


@dataclass(frozen=True)
class PredictedStructures:
    """What was predicted of a frame's structures: label map and volumes of the estimate, and the volumes' intervals."""

    labels: PreparedLabels
    intervals: VolumeIntervals

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> PredictedStructures | None:
        """Those of a row of a record (`generation_record.PREDICTION_SCHEMA`); None where none were predicted."""
        if not row.get("labels") or not row.get("structures"):
            return None
        kept = json.loads(row["structures"])
        labels = np.frombuffer(row["labels"], "<i4").reshape(row["shape"][2:])
        volumes = np.array(kept["voxels"]) * kept["own_voxels"]
        names = {value: name for name, value in kept["labels"].items()}
        own = dict(zip(kept["labels"], volumes[0].tolist(), strict=True))
        samples = dict(zip(kept["labels"], volumes[1:].T, strict=True))
        corrections = {name: VolumeCorrection(*each) for name, each in kept.get("corrections", {}).items()}
        return cls(PreparedLabels(labels, names, own), VolumeIntervals(kept["level"], samples, corrections))


def _border(mask: Mask) -> Mask:
    return mask & ~ndimage.binary_erosion(mask)


def _same_shape(truth: Mask, predicted: Mask) -> None:
    if truth.shape != predicted.shape:
        raise ValueError(f"the true label map is {truth.shape}, the predicted one {predicted.shape}")
