"""All settings: one frozen, validated tree.

The defaults are the embedded phantom run, so that `sadm-ray run` works with no file at all; `configs/phantom.yaml`
spells the same values out. `sadm_ray.config_file` reads the tree from a file.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Grid = tuple[Positive, Positive, Positive]  # d, h, w
SamplerName = Literal["ancestral", "ddim", "dpm++"]
Precision = Literal["float32", "bfloat16", "auto"]  # auto: bfloat16 where the device has units for it

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""What a run, task or subject may be called: such a name can never leave the folder that it is written to."""


def _safe_name(name: str) -> str:
    if not SAFE_NAME.fullmatch(name):
        raise ValueError("use letters, digits, '_', '-' and '.', beginning with a letter or digit")
    return name


Name = Annotated[str, AfterValidator(_safe_name)]


class Section(BaseModel):
    """A group of settings: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunSettings(Section):
    """Where a run lives. Everything that a run writes is below `dir/name`."""

    name: Name = "phantom"
    dir: Path = Path("runs")


class PhantomSettings(Section):
    """The beating-ventricle phantom that stands in for a study when `data.root` is not given."""

    subjects: Positive = 112
    shape: Grid = (8, 48, 48)
    noise: Annotated[float, Field(ge=0)] = 0.01  # standard deviation, as a fraction of the intensity range


class DataSettings(Section):
    """The study on disk and how it becomes shards.

    `root` is the study's folder (none: the phantom is written and used). `shape` is the model's grid (d h w), `frames`
    the number of slots from end-diastole to end-systole. The fractions split the subjects, not the scans.
    """

    root: Path | None = None
    layout: Literal["acdc"] = "acdc"
    shape: Grid = (8, 32, 32)
    frames: Annotated[int, Field(ge=2)] = 8
    val_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.15

    @model_validator(mode="after")
    def _leaves_training_subjects(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must stay below 1, or nobody is left to train on")
        return self


class CovariateSettings(Section):
    """Something known of a subject or a visit: a category with `levels`, else a number with its mean and deviation."""

    name: Name
    of: Literal["subject", "visit"] = "subject"
    levels: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: Annotated[float, Field(gt=0)] = 1.0


class ConditionerSettings(Section):
    """The temporal encoder and spatial decoder that turn the observed sequence into the condition.

    `patch` voxels (d h w) become channels at its stem; none: those of the denoiser. Times are divided by `time_scale`,
    so that one is a typical span of a sequence.
    """

    patch: Grid | None = None
    time_scale: Annotated[float, Field(gt=0)] = 1.0
    widths: tuple[Positive, ...] = (32, 64)
    heads: Positive = 4
    layers: Positive = 2
    channels: Positive = 32


class DenoiserSettings(Section):
    """The 3D U-Net: `patch` voxels (d h w) become channels at the stem; then one level a width, each half as fine."""

    patch: Grid = (2, 4, 4)
    widths: tuple[Positive, ...] = (64, 96)
    blocks: Positive = 2
    heads: Positive = 4


class ModelSettings(Section):
    """The networks and what they predict.

    `target` states x: the volume itself (the paper), its difference from the nearest observed frame, or that difference
    with motion compensation. Differences are divided by `difference_scale` (none: measured on the training subjects).
    `voxel_variance` lets the denoiser say how much each voxel may change at all (`sadm_ray.diffusion.posterior`).
    `pad`: volumes that the patches do not divide are padded, rather than refused.
    """

    target: Literal["volume", "difference", "motion"] = "motion"
    difference_scale: Annotated[float, Field(gt=0)] | None = None
    voxel_variance: bool = True
    pad: bool = False
    covariates: tuple[CovariateSettings, ...] = ()
    conditioner: ConditionerSettings = ConditionerSettings()
    denoiser: DenoiserSettings = DenoiserSettings()

    @property
    def patch(self) -> Grid:
        """What has to divide a volume: both stems' patches do (d h w)."""
        other = self.conditioner.patch or self.denoiser.patch
        d, h, w = (math.lcm(*sizes) for sizes in zip(self.denoiser.patch, other, strict=True))
        return d, h, w


class DiffusionSettings(Section):
    """The continuous-time process: log-SNR schedule over [log_snr_min, log_snr_max], shifted, and the prediction.

    `weighting` of the loss by noise level; `weighting_parameter` is γ of min-snr (usually 5), b of sigmoid (−3 to 3).
    """

    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    log_snr_min: float = -12.0
    log_snr_max: float = 12.0
    shift: float = -3.0
    prediction: Literal["v", "x", "eps"] = "v"
    weighting: Literal["v", "min-snr", "sigmoid"] = "v"
    weighting_parameter: float = 5.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.log_snr_min >= self.log_snr_max:
            raise ValueError("log_snr_min must be below log_snr_max")
        return self


def check_prediction(model: ModelSettings, diffusion: DiffusionSettings) -> None:
    """Motion and the variance of voxels are ways of saying v (`sadm_ray.diffusion.posterior`).

    Raises:
        ValueError: something else is to be predicted.
    """
    if diffusion.prediction != "v" and (model.target == "motion" or model.voxel_variance):
        raise ValueError(
            f"diffusion.prediction: '{diffusion.prediction}' goes with neither model.target=motion nor "
            "model.voxel_variance=true; use v, or model.target=difference model.voxel_variance=false"
        )


class TrainSettings(Section):
    """How the model is trained. `batch_size` is over all workers together."""

    steps: Positive = 400
    batch_size: Positive = 16
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    condition_dropout: Fraction = 0.1
    imputation: Fraction = 0.3  # how often later frames are observed too
    subjects_in_memory: Positive = 64  # per worker: the pool from which batches are drawn
    targets_per_subject: Positive = 50  # drawn from a subject each time it is read
    workers: Positive = 2
    device: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Precision = "float32"
    compile: bool = False  # the denoiser, by torch.compile
    recompute_activations: bool = False  # in the backward pass: less memory, more time
    checkpoint_every: Positive = 200
    log_every: Positive = 20
    max_failures: Annotated[int, Field(ge=0)] = 2


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


class TrackingSettings(Section):
    """MLflow. Without a `uri`, `MLFLOW_TRACKING_URI` is used, else a sqlite file in the run's folder."""

    uri: str | None = None
    experiment: str = "sadm-ray"


class RaySettings(Section):
    """The cluster: `address` of a running one (`auto`: find it), or none to start Ray on this machine."""

    address: str | None = None
    object_store_gb: Annotated[float, Field(gt=0)] = 1.0


class Settings(Section):
    """The whole tree."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    run: RunSettings = RunSettings()
    phantom: PhantomSettings = PhantomSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    train: TrainSettings = TrainSettings()
    sampling: SamplingSettings = SamplingSettings()
    tune: TuneSettings = TuneSettings()
    generate: GenerateSettings = GenerateSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    tracking: TrackingSettings = TrackingSettings()
    ray: RaySettings = RaySettings()

    @property
    def run_dir(self) -> Path:
        """The run's folder, absolute: a worker's own directory is another one."""
        return (self.run.dir / self.run.name).expanduser().absolute()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for axis, size, patch in zip("dhw", self.data.shape, self.model.patch, strict=True):
            if size % patch and not self.model.pad:
                raise ValueError(
                    f"data.shape: {axis} is {size}, which the patch {patch} of the model does not divide; "
                    f"the nearest size that fits is {max(round(size / patch), 1) * patch}, or set model.pad=true"
                )
        check_prediction(self.model, self.diffusion)
        if self.train.batch_size % self.train.workers:
            raise ValueError(
                f"train.batch_size: {self.train.batch_size} cannot be shared equally by {self.train.workers} workers"
            )
        for task in self.generate.tasks:
            for frame in (*task.observed, *task.targets):
                if not -self.data.frames <= frame < self.data.frames:
                    raise ValueError(
                        f"generate.tasks: frame {frame} of '{task.name}' lies outside the {self.data.frames} frames "
                        f"of data.frames (0 to {self.data.frames - 1})"
                    )
        return self


def flatten(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Dotted keys and plain values, in the order of the tree: what MLflow records as parameters."""
    flat: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
