"""Settings of the tasks of an evaluation."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from sadm_ray.config.base import Name, Section


class TaskSettings(Section):
    """Observed and target frames of one evaluation task, as slots of the sequence (negative: counted from the end).

    The `targets` are generated one after another, gaps halved first; each generated frame then counts as observed.
    """

    name: Name
    observed: tuple[int, ...] = Field(min_length=1)
    targets: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        both = set(self.observed) & set(self.targets)
        if both:
            raise ValueError(f"frame {min(both)} of task '{self.name}' is both observed and a target")
        return self
