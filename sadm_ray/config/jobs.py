"""Settings of the jobs after training: sampling, the sweep, generation and evaluation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sadm_ray.config.base import Fraction, Name, Positive, Precision, SamplerName, Section


class SamplingSettings(Section):
    """How a volume is drawn from the trained model.

    `guidance_interval`: guidance has its strength between these two λ only and costs nothing outside; none: everywhere.
    """

    sampler: SamplerName = "ddim"
    num_steps: Positive = 4
    spacing: Literal["time", "log_snr", "karras"] = "time"
    guidance_scale: Annotated[float, Field(ge=0)] = 0.0
    guidance_interval: tuple[float, float] | None = None
    guidance_split: bool = False  # two calls of half the memory instead of one
    stochasticity: Fraction = 0.5  # v of the ancestral sampler; the others have none
    precision: Precision = "float32"


class TaskSettings(Section):
    """A question to the model, in slots of the sequence (negative ones count from the end).

    The `targets` are generated one after another, nearest in time first; each generated frame then counts as observed.
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


class TuneSettings(Section):
    """The sweep of sampling settings on validation subjects (no retraining)."""

    trials: Positive = 8
    subjects: Positive = 8
    concurrent: Positive = 2
    sampler: tuple[SamplerName, ...] = Field(default=("ancestral", "ddim", "dpm++"), min_length=1)
    num_steps: tuple[Positive, ...] = Field(default=(1, 2, 4, 8), min_length=1)
    guidance_scale: tuple[float, float] = (0.0, 1.0)
    stochasticity: tuple[Fraction, Fraction] = (0.0, 1.0)

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for key in ("guidance_scale", "stochasticity"):
            low, high = getattr(self, key)
            if not 0 <= low <= high:
                raise ValueError(f"{key} is a range: [low, high] with 0 <= low <= high")
        return self


class GenerateSettings(Section):
    """The generation job. Every test subject is asked every task; `tuned`: with the sweep's settings, if there are."""

    tuned: bool = True
    samples: Positive = 4
    actors: Positive = 2
    batch_size: Positive = 8  # subjects per call of an actor
    gpus_per_actor: Annotated[float, Field(ge=0)] = 0.0
    tasks: tuple[TaskSettings, ...] = Field(
        default=(
            TaskSettings(name="ed-to-es", observed=(0,), targets=(-1,)),
            TaskSettings(name="three-to-es", observed=(0, 2, 4), targets=(-1,)),
            TaskSettings(name="missing", observed=(0, 3, -1), targets=(1, 2, 4, 5, 6)),
        ),
        min_length=1,
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [task.name for task in self.tasks]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two tasks are called '{min(twice)}'; their outputs would overwrite each other")
        return self


class EvaluateSettings(Section):
    """The report: how many subjects it shows in pictures."""

    pictures: Positive = 4
