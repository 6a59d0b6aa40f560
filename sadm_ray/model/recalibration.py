"""Recalibration: what a model's belief is corrected by, and bounds, fitted on subjects that it was not trained on.

A model that is fitted to few subjects is too sure of what it predicts for others. Its estimate says too much or too
little change, and its samples differ too little or too much: three numbers correct that, beyond the scans and between
two of them. What then remains is told by bounds. All are fitted, never chosen (`sadm_ray.calibrate`), and lie beside
the weights that they are of.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from sadm_ray.config import SamplingSettings, Section
from sadm_ray.errors import DataError

if TYPE_CHECKING:  # the model itself needs neither files nor PyArrow
    from sadm_ray.storage import Storage

FILE = "recalibration.json"
KINDS = {"single": "from a single scan", "beyond": "beyond several scans", "between": "between two scans"}
"""Targets that are corrected each by their own, and what they are in words."""
WIDTHS = tuple(0.125 * 2 ** (step / 6) for step in range(49))
"""Half widths of bounds that were tried, in standard deviations of the samples: 1/8 to 32."""
REGIONS = ("still", "moving")
MOVING = 0.02
"""Where samples deviate by more than this part of the intensity range, a voxel counts as moving."""
Factor = Annotated[float, Field(gt=0)]


class Correction(Section):
    """Factors of the estimate's change, and of what samples differ by: their motions, and their intensities.

    `noise`: what is added to them, as a part of the prior's deviation at each voxel.
    """

    change: Factor = 1.0
    motion: Factor = 1.0
    intensity: Factor = 1.0
    noise: Annotated[float, Field(ge=0)] = 0.0


class Misses(Section):
    """Of each of `WIDTHS`, which part of the voxels lay outside, by region: of a subject on average over `subjects`."""

    subjects: int
    missed: dict[str, tuple[float, ...]]

    def width(self, region: str, level: float) -> float | None:
        """The least of `WIDTHS` for which a new subject's voxels are expected to lie outside in at most 1 − level.

        Conformal risk control with subjects as the unit (Angelopoulos et al., Conformal Risk Control, ICLR 2024): n
        subjects and a new one are exchangeable, and of the new one at most all voxels are missed.

        Returns:
            None: so few subjects cannot show it; the level would have to be at most `highest_level`.
        """
        n = self.subjects
        for width, missed in zip(WIDTHS, self.missed[region], strict=True):
            if (n * missed + 1.0) / (n + 1.0) <= 1.0 - level + 1e-12:
                return width
        return None

    @property
    def highest_level(self) -> float:
        """The highest level that so many subjects can show."""
        return 1.0 - 1.0 / (self.subjects + 1.0)


class VolumeErrors(Section):
    """How far the true volume of a structure lay from the mean of its samples, a number a held-out subject, ascending.

    The unit is s √(1 + 1/S), by which the volume of a next sample deviates from the mean of S `samples` with the
    standard deviation s.
    """

    samples: Annotated[int, Field(ge=2)]
    errors: tuple[Annotated[float, Field(ge=0)], ...]

    @property
    def subjects(self) -> int:
        """How many were held out and have the structure."""
        return len(self.errors)

    def factor(self, level: float) -> float | None:
        """By what the interval that the samples give at a level (mean ± t s √(1 + 1/S)) is to be multiplied.

        Conformal prediction with normalised residuals and subjects as the unit (Lei et al., Distribution-Free
        Predictive Inference for Regression, JASA 2018): n subjects and a new one are exchangeable, so that with the
        probability `level` its error is at most the ⌈(n + 1) level⌉-th smallest of theirs.

        Returns:
            None: so few subjects cannot show it (`needed_subjects`).
        """
        rank = math.ceil((self.subjects + 1) * level - 1e-9)
        if rank > self.subjects:
            return None
        from scipy.special import stdtrit  # the model itself does without it

        return self.errors[rank - 1] / float(stdtrit(self.samples - 1, 0.5 + 0.5 * level))


class Recalibration(Section):
    """The corrections of a model, the misses of its bounds by task, and the errors of volumes by task and structure.

    `weights` is the SHA-256 of the file of the weights that they are of, `sampling` how was drawn; `subjects`: how many
    were held out, and in how many folds (0: the validation subjects).
    """

    single: Correction = Correction()
    beyond: Correction = Correction()
    between: Correction = Correction()
    misses: dict[str, Misses] = Field(default_factory=dict)
    volumes: dict[str, dict[str, VolumeErrors]] = Field(default_factory=dict)
    subjects: int = 0
    folds: int = 0
    sampling: dict[str, Any] = Field(default_factory=dict)
    weights: str = ""

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, content: Any) -> Any:
        """In files of earlier versions a target from a single scan is one beyond the scans."""
        if isinstance(content, dict) and "single" not in content and "beyond" in content:
            return content | {"single": content["beyond"]}
        return content

    def fits(self, sampling: SamplingSettings) -> bool:
        """Whether it was fitted with these settings of sampling."""
        return bool(self.subjects) and self.sampling == deciding(sampling)

    @classmethod
    def read(cls, storage: Storage, weights: str) -> Self:
        """Of the model in a folder; none where there is no file, or one of other weights.

        Args:
            weights: the SHA-256 of its weights.

        Raises:
            DataError: the file is damaged.
        """
        if storage.entry(FILE) is None:
            return cls()
        try:
            found = cls.model_validate(json.loads(storage.read(FILE)))
        except (ValueError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{storage.where(FILE)}: damaged ({reason}); remove it and calibrate again") from None
        return found if found.weights == weights else cls()

    @property
    def content(self) -> str:
        """As JSON; where no volumes are known without them, since they change nothing of what is drawn."""
        return self.model_dump_json(exclude=None if self.volumes else {"volumes"})

    def write(self, storage: Storage) -> None:
        """Put it beside the weights."""
        storage.write(FILE, (self.model_dump_json(indent=1) + "\n").encode())


NOT_CALIBRATED = Recalibration()
"""Of a model that nothing was fitted for."""


def deciding(sampling: SamplingSettings) -> dict[str, Any]:
    """The settings of sampling on which corrections and bounds depend."""
    content: dict[str, Any] = json.loads(sampling.model_dump_json())
    return {key: value for key, value in content.items() if key not in ("precision", "guidance_split", "ema")}


def needed_subjects(level: float) -> int:
    """How many subjects it takes to show a level."""
    return math.ceil(1.0 / (1.0 - level) - 1e-9) - 1
