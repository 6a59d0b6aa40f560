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
from jaxtyping import Bool
from scipy import ndimage

from sadm_ray.data.label_maps import LabelMaps, PreparedLabels
from sadm_ray.evaluate.naive_baselines import last_observed
from sadm_ray.evaluate.prediction import Truth
from sadm_ray.evaluate.score_tables import COPY_LAST, ESTIMATE
from sadm_ray.generate.structure_volumes import interval

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


def structure_rows(
    truth: PreparedLabels,
    predicted: Iterable[tuple[str, PreparedLabels]],
    maps: LabelMaps,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    level: float = math.nan,
) -> Iterator[dict[str, Any]]:
    """The scores of each method's label map against the true one (part of `score_tables.STRUCTURES_COLUMNS`).

    A structure that neither has gets no row. Where one of both lacks it, `empty` is 1, Dice is 0 and there is no
    distance. Where the sizes of voxels are not known there are no mm and no ml, only voxels of the scan's own grid.

    Args:
        predicted: label maps by method, on the same grid.
        maps: the subject's: its voxels.
        intervals: of the estimate's volumes, in voxels of the subject's own grid, at `level`.

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
            between = (intervals or {}).get(name) if method == ESTIMATE else None
            scores = {
                "dice": dice(*masks),
                "hd95_mm": hausdorff_95(*masks, maps.voxel_mm) if maps.spacing_known else math.nan,
                **_volumes(*sizes, voxel_ml),
                "empty": float(not (masks[0].any() and masks[1].any())),
                **_interval(sizes[0], between, level, voxel_ml),
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


def _interval(true: float, between: tuple[float, float] | None, level: float, voxel_ml: float) -> dict[str, float]:
    if between is None or math.isnan(between[0]):
        return dict.fromkeys(("interval_level", "interval_ml", "interval_holds"), math.nan)
    low, high = between
    return {
        "interval_level": level,
        "interval_ml": (high - low) * voxel_ml,
        "interval_holds": float(low <= true <= high),
    }


def copied_labels(truth: Truth, observed: Sequence[int], target: int) -> Iterator[tuple[str, PreparedLabels]]:
    """Copy-last's label map: that of the last observed scan before the target that has one, else the nearest in time.

    That need not be the scan which copy-last copies: of a cine few frames are labelled.
    """
    labelled = [slot for slot in observed if slot != target and truth.labels.at(slot) is not None]
    if labelled:
        copied = truth.labels.at(last_observed(labelled, truth.times, target))
        if copied is not None:
            yield COPY_LAST, copied


@dataclass(frozen=True)
class PredictedStructures:
    """What was predicted of a frame's structures: label map and volumes of the estimate, and the volumes' intervals.

    `intervals` are in voxels of the subject's own grid; NaN of one volume.
    """

    labels: PreparedLabels
    intervals: Mapping[str, tuple[float, float]]
    level: float

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
        samples = volumes[1:].T
        intervals = {name: interval(each, kept["level"]) for name, each in zip(kept["labels"], samples, strict=True)}
        return cls(PreparedLabels(labels, names, own), intervals, kept["level"])


def _border(mask: Mask) -> Mask:
    return mask & ~ndimage.binary_erosion(mask)


def _same_shape(truth: Mask, predicted: Mask) -> None:
    if truth.shape != predicted.shape:
        raise ValueError(f"the true label map is {truth.shape}, the predicted one {predicted.shape}")
