"""Settings of the generation job and of the evaluation of its volumes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sadm_ray.config.base import Positive, Section, Time
from sadm_ray.config.data_settings import Location
from sadm_ray.config.derived_settings import DerivedSettings
from sadm_ray.config.task_settings import TaskSettings


class GenerateSettings(Section):
    """The generation job.

    What is wanted: the frames of every task (none of the next three given: what the evaluation needs), or with
    `missing` every slot without a scan and with `at` these times (in the study's unit) where a subject has no scan,
    or the requests of a CSV `file`: a line for each `subject`, its `times` (split by `;`), and if wanted `samples`,
    `seed`, the times of the scans that may be `observed`, a `name`, and planned covariates of the model by their names.

    `given`: planned covariates of the wanted visits, `name=value` each, for all lines of a file that say no other; what
    is not given is as the study's tables have it. Of several values of a covariate each has an answer of its own, and
    the samples of these answers have the same noise.

    `model` is a trained model's folder or URL (none: the run's own), `study` a folder or URL of scans that are prepared
    as the model's were (none: the run's own study), `out` where it all goes, also a folder or URL (none: into the run's
    folder). `split`: which subjects of the run's own study; of another one all. `ensemble`: further models, of other
    trainings, among which and `model` the samples of a frame are dealt in turn.

    One volume (`samples` 1) is the estimate, the best point prediction. Of several, `estimates` are written: the
    estimate, the samples, their mean and standard deviation, and the `lower` and `upper` bound between which a part of
    `level` of the voxels is expected, if the model is calibrated.

    `structures`: where an observed visit has a label map, its structures move as the anatomy does: label maps of the
    estimate and of each sample are written, and a table of volumes with the interval that the samples give at `level`.
    `derived`: numbers that are computed from these volumes, such as an ejection fraction, with their intervals.

    `exact`: every subject goes through the network alone, its samples together (large volumes in turn, by their size
    alone), so that its voxels are the same to the last bit whatever the other subjects; without, `batch_size` sequences
    go at a time, which is faster for small volumes and equal to 1e-5. `sequence`: also all frames in time as one 4D
    file and as a GIF. `tuned`: with the sweep's settings, if there are. `replace`: what another request left in `out`
    may be removed.
    """

    model: Location | None = None
    ensemble: tuple[Location, ...] = ()
    study: Location | None = None
    out: Location | None = None
    split: Literal["train", "val", "test", "all"] = "test"
    missing: bool = False
    at: tuple[Time, ...] = ()
    file: Location | None = None
    given: tuple[str, ...] = ()
    tuned: bool = True
    samples: Positive = 4
    estimates: tuple[Literal["estimate", "samples", "mean", "std", "lower", "upper"], ...] = Field(
        default=("estimate", "samples", "std"), min_length=1
    )
    level: Annotated[float, Field(gt=0, lt=1)] = 0.9
    structures: bool = True
    derived: tuple[DerivedSettings, ...] = ()
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
        names = [task.name.lower() for task in self.tasks]  # some disks do not tell upper from lower case
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two tasks are called '{min(twice)}'; their outputs would overwrite each other")
        numbers = [each.name for each in self.derived]
        if len(set(numbers)) < len(numbers):
            twice = {name for name in numbers if numbers.count(name) > 1}
            raise ValueError(f"derived: two numbers are called '{min(twice)}'; give one of them another name")
        if self.file is not None and (self.missing or self.at):
            raise ValueError("file says what is wanted, and so do missing and at; give one of them")
        for text in self.given:
            name, _, value = text.partition("=")
            if not name or not value:
                raise ValueError(f"given: '{text}' is not a covariate's name=value, such as treatment=B")
        if self.given and not (self.missing or self.at or self.file):
            raise ValueError(
                "given goes with missing, at or file, as the targets of tasks are compared with what was scanned; give "
                "one of these too"
            )
        return self


class EvaluateSettings(Section):
    """The report: how many subjects it shows in pictures."""

    pictures: Positive = 4
