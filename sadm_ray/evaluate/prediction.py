"""A predicted frame, the true frames of its subject, and all volumes that are compared with the truth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.data.label_maps import LabelMaps
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.errors import DataError
from sadm_ray.evaluate import naive_baselines
from sadm_ray.evaluate.mean_change_baseline import MeanChange
from sadm_ray.evaluate.metrics import regions_of
from sadm_ray.evaluate.score_tables import (
    COPY_FIRST,
    COPY_LAST,
    ESTIMATE,
    EXTRAPOLATION,
    INTERPOLATION,
    MEAN_CHANGE,
    SAMPLE,
)
from sadm_ray.model.prediction_bounds import BoundWidths

Row = dict[str, Any]
"""As `sadm_ray.generate.generation_record.PREDICTION_SCHEMA`."""


@dataclass(frozen=True)
class Truth:
    """A subject's scans of one contrast, the regions that its volumes are scored over, and their label maps."""

    frames: Float[np.ndarray, "t d h w"]
    present: Bool[np.ndarray, " t"]
    times: Float[np.ndarray, " t"]
    regions: Mapping[str, Bool[np.ndarray, "d h w"]]
    labels: LabelMaps

    @classmethod
    def read(cls, study: Study, subject: str, labels: LabelFiles | None = None, contrast: str = "") -> Truth:
        """Read a subject of a study.

        Args:
            labels: the label maps of the study (`data.label_maps.labels_of`); None: none are known.
            contrast: which of several; empty where a study has one.

        Raises:
            DataError: no such subject or contrast, or its shard is missing or damaged.
        """
        stored = read_subject(study, subject)
        if contrast not in stored["contrasts"]:
            named = " and ".join(filter(None, stored["contrasts"])) or "one contrast without a name"
            raise DataError(f"predicted is the contrast {contrast!r}, the study has {named}; generate again")
        row = of_contrast(stored, stored["contrasts"].index(contrast))
        frames, present = row["frames"][:, 0], row["present"]
        return cls(frames, present, row["times"], regions_of(frames, present), LabelMaps.of(row, labels))

    def can_score(self, row: Row) -> bool:
        """Whether a prediction can be compared: its frame was scanned, and its volumes were kept."""
        return row["frame"] is not None and row["samples"] is not None and bool(self.present[row["frame"]])


@dataclass(frozen=True)
class Prediction:
    """One predicted frame: its slot, the slots that were observed for it, its estimate and samples, in [0, 1].

    Records of earlier versions have no estimate; where one volume was requested there are no samples.
    """

    target: int
    observed: tuple[int, ...]
    samples: Float[np.ndarray, "s d h w"]
    estimate: Float[np.ndarray, "d h w"] | None = None
    widths: BoundWidths | None = None

    @classmethod
    def read(cls, row: Row, truth: Truth) -> Prediction:
        """Read the frame in a row of predictions.

        Raises:
            ValueError: the row names an observed slot without a scan.
        """
        observed = tuple(int(slot) for slot in row["observed"])
        absent = [slot for slot in observed if not truth.present[slot]]
        if absent:
            raise ValueError(f"frame {absent[0]} is said to be observed, but the subject has none there")
        samples = np.frombuffer(row["samples"], "<f2").reshape(row["shape"])[:, 0].astype(np.float32)
        stored = row.get("estimate")
        estimate = None
        if stored is not None:
            estimate = np.frombuffer(stored, "<f2").reshape(samples.shape[1:]).astype(np.float32)
        widths = BoundWidths(**json.loads(row["bounds"])) if row.get("bounds") else None
        return cls(int(row["frame"]), observed, samples, estimate, widths)

    @property
    def center(self) -> Float[np.ndarray, "d h w"]:
        """The estimate; of an earlier version's record the mean of the samples."""
        return self.samples.mean(axis=0) if self.estimate is None else self.estimate

    def bounds_hold(self, truth: NDArray, region: Bool[np.ndarray, "d h w"]) -> dict[str, float]:
        """The level of the calibrated bounds, and the part of a region's voxels inside; NaN without bounds."""
        if self.widths is None or not region.any():
            return {"bounds_level": math.nan, "bounds_hold": math.nan}
        lower, upper = self.widths.around(self.center, self.samples)
        inside = (lower <= truth) & (truth <= upper)
        return {"bounds_level": self.widths.level, "bounds_hold": float(inside[region].mean())}

    @property
    def ensemble(self) -> str:
        """The name of the method that is the mean of all samples."""
        return f"mean of {len(self.samples)}"

    def volumes(self, truth: Truth, change: MeanChange | None) -> Iterator[tuple[str, NDArray]]:
        """Every method with its volume (d h w) of this frame, the naive baselines first."""
        methods: dict[str, Callable[..., NDArray | None]] = {
            COPY_LAST: naive_baselines.copy_last,
            COPY_FIRST: naive_baselines.copy_first,
            EXTRAPOLATION: naive_baselines.extrapolation,
            INTERPOLATION: naive_baselines.interpolation,
        }
        if change is not None:
            methods[MEAN_CHANGE] = change.predict
        for method, baseline in methods.items():
            volume = baseline(truth.frames, self.observed, truth.times, self.target)
            if volume is not None:
                yield method, volume
        if self.estimate is not None:
            yield ESTIMATE, self.estimate
        if len(self.samples):
            yield SAMPLE, self.samples[0]
        if len(self.samples) > 1:
            yield self.ensemble, self.samples.mean(axis=0)
