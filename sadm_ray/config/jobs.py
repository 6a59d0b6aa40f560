"""Settings of the jobs after training: sampling, the sweep, generation and evaluation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from sadm_ray.config.base import Fraction, Name, Positive, Precision, SamplerName, Section
from sadm_ray.config.data import Location

Spacing = Literal["time", "log_snr", "karras"]
Objective = Literal["gain", "gain_changed", "ssim", "nrmse_changed", "calibration", "network_calls"]
Interval = tuple[float, float] | None
Choice = bool | int | float | str | tuple[int, ...] | None
Decay = Annotated[float, Field(gt=0, lt=1)]
LEAST_GUIDANCE = -1.0
"""Where the condition has no say any more."""
Guidance = Annotated[float, Field(ge=LEAST_GUIDANCE)]
Temperature = Annotated[float, Field(gt=0, le=1)]


class SamplingSettings(Section):
    """How a volume is drawn from the trained model.

    `guidance_scale`: above 0 the condition's say is exaggerated, below 0 only a part of it is taken. A model that
    guesses (`model.guess`) has its guess guided, at no cost; it stands for the first evaluation, at the noisiest λ.
    `guidance_interval`: guidance has its strength between these two λ only and costs nothing outside; none: everywhere.
    `temperature`: the deviation of all noise that is drawn; below 1 the samples differ less than the targets do, and
    each lies nearer to their mean.
    `ema`: which average of the weights, one of the model's `train.ema_decays`; none: the one that validation chose.
    """

    sampler: SamplerName = "ddim"
    num_steps: Positive = 4
    spacing: Spacing = "time"
    guidance_scale: Guidance = 0.0
    guidance_interval: Interval = None
    guidance_split: bool = False  # two calls of half the memory instead of one
    stochasticity: Fraction = 0.5  # v of the ancestral sampler; the others have none
    temperature: Temperature = 1.0
    ema: Decay | None = None
    precision: Precision = "float32"


class TaskSettings(Section):
    """A question to the model, in slots of the sequence (negative ones count from the end).

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

    `space` says where to look: a setting by its dotted name, and either a list of values to choose from or a range
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
            "model.guess.widths": ((48, 64), (64, 96)),
            "train.learning_rate": Range(low=1e-4, high=3e-3, log=True),
        },
        min_length=1,
    )


class TuneSettings(Section):
    """The sweep of sampling settings on validation subjects (no retraining), and with `of` training that of training.

    `objectives` are weighed against each other; the first decides who wins and which trials are stopped early. Of
    equally good ones the one with the fewest network calls wins. `search`: `tpe` and `nsga2` are Optuna's samplers,
    `grid` tries every combination, `grid_points` of each range. Trials that do badly after `first_subjects` are
    stopped, then after `reduction` times as many, and so on; `reduction` none: all see every subject. `samples` a frame
    are drawn; calibration needs two. `calibration` is how far the spread of the samples is from their error.
    """

    of: Literal["sampling", "training"] = "sampling"
    trials: Positive = 8
    subjects: Positive = 8
    concurrent: Positive = 2
    search: Literal["tpe", "nsga2", "grid"] = "tpe"
    objectives: tuple[Objective, ...] = Field(default=("gain", "network_calls"), min_length=1)
    samples: Positive = 1
    first_subjects: Positive = 2
    reduction: Annotated[int, Field(ge=2)] | None = 2
    grid_points: Annotated[int, Field(ge=2)] = 3
    sampler: tuple[SamplerName, ...] = Field(default=("ancestral", "ddim", "dpm++"), min_length=1)
    num_steps: tuple[Positive, ...] = Field(default=(2, 4, 8), min_length=1)  # in a single one samples are alike
    spacing: tuple[Spacing, ...] = Field(default=("time",), min_length=1)
    guidance_scale: tuple[float, float] = (0.0, 1.0)
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
        if "calibration" in self.objectives and self.samples < 2:
            raise ValueError("objectives: calibration compares samples with each other; set samples to 2 at least")
        if self.objectives[0] == "network_calls":
            raise ValueError("objectives: the first one decides; network_calls alone would choose the worst quality")
        return self


class GenerateSettings(Section):
    """The generation job.

    What is wanted: the frames of every task (none of the next three given: what the evaluation needs), or with
    `missing` every slot without a scan and with `at` these times (in the study's unit) where a subject has no scan,
    or what a CSV `file` asks for: a line for each `subject`, its `times` (split by `;`), and if wanted `samples`,
    `seed`, the times of the scans that may be `observed`, and a `name`.

    `model` is a trained model's folder or URL (none: the run's own), `study` a folder or URL of scans that are prepared
    as the model's were (none: the run's own study), `out` where it all goes, also a folder or URL (none: into the run's
    folder). `split`: whom of the run's own study; of another one everybody. `ensemble`: further models, of other
    trainings, among which and `model` the samples of a frame are dealt in turn.

    `exact`: every subject goes through the network alone, all its samples together, so that its voxels are the same to
    the last bit whoever else is there; without, `batch_size` sequences do at a time, which is faster for small volumes
    and equal to 1e-5. `sequence`: also all frames in time as one 4D file and as a GIF. `tuned`: with the sweep's
    settings, if there are. `replace`: what another request left in `out` may be removed.
    """

    model: Location | None = None
    ensemble: tuple[Location, ...] = ()
    study: Location | None = None
    out: Location | None = None
    split: Literal["train", "val", "test", "all"] = "test"
    missing: bool = False
    at: tuple[FiniteFloat, ...] = ()
    file: Location | None = None
    tuned: bool = True
    samples: Positive = 4
    estimates: tuple[Literal["samples", "mean", "std"], ...] = Field(default=("samples", "mean", "std"), min_length=1)
    sequence: bool = False
    exact: bool = True
    replace: bool = False
    actors: Positive = 2
    batch_size: Positive = 8
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
        if self.file is not None and (self.missing or self.at):
            raise ValueError("file says what is wanted, and so do missing and at; give one of them")
        return self


class EvaluateSettings(Section):
    """The report: how many subjects it shows in pictures."""

    pictures: Positive = 4
