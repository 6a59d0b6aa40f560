"""All settings: one frozen, validated tree.

The defaults are the embedded phantom run, so that `sadm-ray run` works with no file at all; `configs/phantom.yaml`
spells the same values out. `sadm_ray.config.settings_file` reads the tree from a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from sadm_ray.config.base import (
    LARGEST_TIME,
    SAFE_NAME,
    Fraction,
    Name,
    Positive,
    Precision,
    SamplerName,
    Section,
    Shape,
    storable,
)
from sadm_ray.config.calibrate_settings import CalibrateSettings
from sadm_ray.config.compare_settings import CompareSettings
from sadm_ray.config.data_settings import (
    DataSettings,
    IntensitySettings,
    Location,
    PhantomSettings,
    SplitSettings,
    contrasts_of,
    is_url,
)
from sadm_ray.config.derived_settings import DerivedSettings
from sadm_ray.config.generate_settings import EvaluateSettings, GenerateSettings
from sadm_ray.config.model_settings import (
    ConditionerSettings,
    CovariateSettings,
    DenoiserSettings,
    DiffusionSettings,
    ModelKind,
    ModelSettings,
    NetworkSettings,
    check_prediction,
)
from sadm_ray.config.sampling_settings import SamplingSettings
from sadm_ray.config.task_settings import OUTPUT_NAMES, OWN_NAMES, TaskSettings
from sadm_ray.config.train_settings import AugmentSettings, TrainSettings, ValidationSettings
from sadm_ray.config.tune_settings import Range, TrainingSweepSettings, TuneSettings

__all__ = [
    "LARGEST_TIME",
    "OUTPUT_NAMES",
    "OWN_NAMES",
    "SAFE_NAME",
    "AugmentSettings",
    "CalibrateSettings",
    "CompareSettings",
    "ConditionerSettings",
    "CovariateSettings",
    "DataSettings",
    "DenoiserSettings",
    "DerivedSettings",
    "DiffusionSettings",
    "EvaluateSettings",
    "Fraction",
    "GenerateSettings",
    "IntensitySettings",
    "Location",
    "ModelKind",
    "ModelSettings",
    "Name",
    "NetworkSettings",
    "PhantomSettings",
    "Positive",
    "Precision",
    "Range",
    "RaySettings",
    "RunSettings",
    "SamplerName",
    "SamplingSettings",
    "Section",
    "Settings",
    "Shape",
    "SplitSettings",
    "TaskSettings",
    "TrackingSettings",
    "TrainSettings",
    "TrainingSweepSettings",
    "TuneSettings",
    "ValidationSettings",
    "check_prediction",
    "contrasts_of",
    "flatten",
    "is_url",
]


class RunSettings(Section):
    """Where a run lives. Everything that a run writes is below `dir/name`."""

    name: Name = "phantom"
    dir: Annotated[Path, AfterValidator(storable)] = Path("runs")


class TrackingSettings(Section):
    """MLflow. Without a `uri`, `MLFLOW_TRACKING_URI` is used, else a sqlite file in the run's folder."""

    uri: str | None = None
    experiment: str = "sadm-ray"


class RaySettings(Section):
    """The cluster: `address` of a running one (`auto`: find it), or none to start Ray on this machine.

    With `nodes`, a job begins when the cluster has so many machines, its head among them, and waits `wait_seconds` for
    them: `ray up` returns before its workers have joined.
    """

    address: str | None = None
    nodes: Positive | None = None
    wait_seconds: Annotated[float, Field(gt=0)] = 600.0
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
    calibrate: CalibrateSettings = CalibrateSettings()
    generate: GenerateSettings = GenerateSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    compare: CompareSettings = CompareSettings()
    tracking: TrackingSettings = TrackingSettings()
    ray: RaySettings = RaySettings()

    @property
    def run_dir(self) -> Path:
        """The run's folder, absolute: a worker's own directory is another one."""
        return (self.run.dir / self.run.name).expanduser().absolute()

    @property
    def training_seed(self) -> int:
        """The seed of the initial weights and of what each training step draws."""
        return self.seed if self.train.seed is None else self.train.seed

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for axis, size, patch in zip("dhw", self.data.shape, self.model.patch, strict=True):
            if size % patch and not self.model.pad:
                raise ValueError(
                    f"data.shape: {axis} is {size}, which the patch {patch} of the model does not divide; "
                    f"the nearest size that fits is {max(round(size / patch), 1) * patch}, or set model.pad=true"
                )
        check_prediction(self.model, self.diffusion)
        for section, tasks in (("generate", self.generate.tasks), ("compare", self.compare.tasks)):
            for task in tasks:
                for frame in (*task.observed, *task.targets):
                    if self.data.frames is not None and not -self.data.frames <= frame < self.data.frames:
                        raise ValueError(
                            f"{section}.tasks: frame {frame} of '{task.name}' lies outside the {self.data.frames} "
                            f"frames of data.frames (0 to {self.data.frames - 1})"
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
