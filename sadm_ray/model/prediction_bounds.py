"""Bounds of a generated frame: so many standard deviations of its samples to both sides of the estimate.

How many is fitted on subjects that were not trained on (`recalibration.Misses`), for voxels that move and those that
keep still.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from sadm_ray.model.recalibration import MOVING, REGIONS, Misses

LEAST_DEVIATION = 1e-3
"""Of samples that do not differ at a voxel; parts of the intensity range."""

Volume = Float[np.ndarray, "*m d h w"]


@dataclass(frozen=True)
class BoundWidths:
    """Half the distance of the bounds at a level, in standard deviations of the samples, by region.

    Attributes:
        level: which part of a new subject's voxels is expected inside, at least.
        subjects: how many held-out subjects show it.
        task: the one they were fitted for.
    """

    level: float
    subjects: int
    task: str
    widths: Mapping[str, float]

    @classmethod
    def of(cls, task: str, misses: Misses, level: float) -> BoundWidths | None:
        """None where the subjects are too few to show this level."""
        widths = {region: misses.width(region, level) for region in REGIONS}
        known = {region: width for region, width in widths.items() if width is not None}
        return cls(level, misses.subjects, task, known) if len(known) == len(REGIONS) else None

    def in_words(self) -> str:
        """What is promised, and on what grounds."""
        what = f"the task {self.task}" if self.task else "other requests, the widest of all tasks: not fitted for this"
        return (
            f"of a new subject at least {100 * self.level:g} % of the voxels are expected between lower and upper; "
            f"calibrated on {self.subjects} held-out subjects for {what}"
        )

    def around(self, estimate: Volume, samples: Float[np.ndarray, "s *m d h w"]) -> tuple[Volume, Volume]:
        """The lower and the upper bound."""
        deviation = deviation_of(samples)
        half = sum(self.widths[region] * voxels for region, voxels in regions_of(deviation).items()) * deviation
        return estimate - half, estimate + half


def deviation_of(samples: Float[np.ndarray, "s *m d h w"]) -> Volume:
    """The standard deviation of the samples at each voxel."""
    return np.maximum(samples.std(axis=0, ddof=1), LEAST_DEVIATION)


def regions_of(deviation: Volume) -> dict[str, Bool[np.ndarray, "*m d h w"]]:
    """The voxels of each of `REGIONS`."""
    moving = deviation > MOVING
    return dict(zip(REGIONS, (~moving, moving), strict=True))
