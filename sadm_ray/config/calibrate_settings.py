"""Settings of the calibration."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from sadm_ray.config.base import Positive, Section


class CalibrateSettings(Section):
    """The calibration of a trained model, on subjects that it was not trained on.

    `folds`: into so many groups the training subjects are divided; a model is trained without each group in turn, and
    predicts it (cross-fitting). 0: the validation subjects are predicted by the model itself, which is cheap, and
    enough where there are many. `draws`: targets of each subject from which the corrections are fitted. `samples`: of
    each frame of the tasks, from which the bounds are.
    """

    folds: Annotated[int, Field(ge=0, le=20)] = 0
    draws: Positive = 16
    samples: Annotated[int, Field(ge=2)] = 8

    @model_validator(mode="after")
    def _some_folds(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds: one fold would train on nobody; give 2 or more, or 0 for the validation subjects")
        return self
