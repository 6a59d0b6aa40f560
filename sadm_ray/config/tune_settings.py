"""Settings of the sweeps: of sampling, on a trained model, and of training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sadm_ray.config.base import Fraction, Positive, SamplerName, Section
from sadm_ray.config.sampling_settings import LEAST_GUIDANCE, Decay, Interval, Spacing, Temperature

Objective = Literal[
    "crps", "gain", "gain_changed", "ssim", "nrmse_changed", "calibration", "dice", "volume_error", "network_calls"
]
Choice = bool | int | float | str | tuple[int, ...] | None


class Range(Section):
    """Where a sweep draws a number from."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("a range has low < high, and on a logarithmic scale both above 0")
        return self


class TrainingSweepSettings(Section):
    """The sweep of training settings: every trial is a training run of its own, on Ray Train.

    `space` is what is searched: a setting by its dotted name, and either a list of values to choose from or a range
    `{low, high}`, with `log: true` on a logarithmic scale. Trials that do badly are stopped: the first time at
    `first_steps`, then at `reduction` times as many, and so on to `train.steps`.
    """

    trials: Positive = 12
    concurrent: Positive = 1
    objective: Literal["val_gain", "val_loss"] = "val_gain"
    first_steps: Positive = 100
    reduction: Annotated[int, Field(ge=2)] = 3
    space: dict[str, tuple[Choice, ...] | Range] = Field(
        default={
            "diffusion.schedule": ("cosine", "linear", "sigmoid"),
            "diffusion.shift": Range(low=-5.0, high=0.0),
            "diffusion.weighting": ("v", "sigmoid"),
            "model.target": ("difference", "motion"),
            "model.prior.widths": ((48, 64), (64, 96)),
            "train.learning_rate": Range(low=1e-4, high=3e-3, log=True),
        },
        min_length=1,
    )


class TuneSettings(Section):
    """The sweep of sampling settings on validation subjects (no retraining), or with `sweep` training that of training.

    `objectives` are weighed against each other; the first decides which trial wins and which are stopped early. Of
    equally good ones the one with the fewest network calls wins. `search`: `tpe` and `nsga2` are Optuna's samplers,
    `grid` tries every combination, `grid_points` of each range. Trials that do badly after `first_subjects` are
    stopped, then after `reduction` times as many, and so on; `reduction` none: all see every subject. `samples` a frame
    are drawn; `crps`, the score of several samples as a distribution, and `calibration` need two. `calibration` is how
    far the spread of the samples is from their error. `dice` and `volume_error`, of structures, need label maps of the
    validation subjects.
    """

    sweep: Literal["sampling", "training"] = "sampling"
    trials: Positive = 6
    subjects: Positive = 8
    concurrent: Positive = 2
    search: Literal["tpe", "nsga2", "grid"] = "tpe"
    objectives: tuple[Objective, ...] = Field(default=("crps", "network_calls"), min_length=1)
    samples: Positive = 4
    first_subjects: Positive = 2
    reduction: Annotated[int, Field(ge=2)] | None = 2
    grid_points: Annotated[int, Field(ge=2)] = 3
    sampler: tuple[SamplerName, ...] = Field(default=("euler", "ddim"), min_length=1)
    num_steps: tuple[Positive, ...] = Field(default=(1, 2, 4), min_length=1)
    spacing: tuple[Spacing, ...] = Field(default=("time",), min_length=1)
    guidance_scale: tuple[float, float] = (0.0, 0.0)
    guidance_interval: tuple[Interval, ...] = Field(default=(None,), min_length=1)
    stochasticity: tuple[Fraction, Fraction] = (0.0, 1.0)
    temperature: tuple[Temperature, ...] = ()  # none: that of `sampling`, which is not searched
    ema: tuple[Decay | None, ...] = Field(default=(None,), min_length=1)
    training: TrainingSweepSettings = TrainingSweepSettings()

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for key, least in (("guidance_scale", LEAST_GUIDANCE), ("stochasticity", 0.0)):
            low, high = getattr(self, key)
            if not least <= low <= high:
                raise ValueError(f"{key} is a range: [low, high] with {least:g} <= low <= high")
        for name in ("crps", "calibration"):
            if name in self.objectives and self.samples < 2:
                raise ValueError(f"objectives: {name} compares samples with each other; set samples to 2 at least")
        if self.objectives[0] == "network_calls":
            raise ValueError("objectives: the first one decides; network_calls alone would choose the worst quality")
        return self
