"""Settings of the comparison of kinds of models."""

from __future__ import annotations

from typing import Annotated, Self, get_args

from pydantic import Field, model_validator

from sadm_ray.config.base import Positive, Section
from sadm_ray.config.model_settings import ModelKind
from sadm_ray.config.task_settings import TaskSettings


class CompareSettings(Section):
    """Each of `kinds` is trained `seeds` times, with the same budget, and evaluated on the same `tasks`.

    The budget is `train.steps`, or with `minutes` as many steps as the workers take in that time: measured for each
    kind before the first training starts. `concurrent` trainings go on at once, each with `workers`. `trials` of a
    sweep choose the settings of sampling of each kind that has any, on validation subjects (0: those of `sampling`).
    `tasks`: none for the paper's three, where the study has slots (the last from one scan, from three of the first
    half, from all before it), else those of `generate`. `confidence` is that of the intervals.
    """

    kinds: tuple[ModelKind, ...] = Field(default=get_args(ModelKind), min_length=1)
    seeds: Positive = 2
    minutes: Annotated[float, Field(gt=0)] | None = None
    workers: Positive = 1
    concurrent: Positive = 2
    trials: Annotated[int, Field(ge=0)] = 6
    tasks: tuple[TaskSettings, ...] = ()
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95

    @model_validator(mode="after")
    def _with_ours(self) -> Self:
        if "sadm" not in self.kinds:
            raise ValueError("kinds: sadm is what the others are compared with; add it")
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds names one twice")
        return self
