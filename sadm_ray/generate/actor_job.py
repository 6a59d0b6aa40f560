"""What an actor of the generation job is given, and what it draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sadm_ray.config import CovariateSettings, SamplingSettings
from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.generate.moved_structures import AllShares, ObservedStructures
from sadm_ray.generate.request import Request
from sadm_ray.model.pretrained import StoredModel

Samples = Float[np.ndarray, "m s c d h w"]


@dataclass(frozen=True)
class GenerationJob:
    """Everything that an actor needs; it carries the models, as other machines may not see their folders.

    `labels`: the label maps of the study, which move with the anatomy; None: none are wanted. `planned`: the covariates
    of the wanted visits that the models know.
    """

    study: Study
    models: tuple[StoredModel, ...]
    digests: tuple[str, ...]
    out: str
    sampling: SamplingSettings
    estimates: tuple[str, ...]
    sequence: bool
    exact: bool
    batch_size: int
    device: str
    level: float = 0.9
    labels: LabelFiles | None = None
    planned: tuple[CovariateSettings, ...] = ()


class Drawn(NamedTuple):
    """Volumes of one subject, and how much of each voxel its structures fill in them; None of a subject without."""

    volumes: Samples
    shares: AllShares | None
    structures: ObservedStructures | None


def samples_of(request: Request) -> int:
    """How many samples are drawn; one volume that is requested is the estimate."""
    return 0 if request.samples == 1 else request.samples


def dealt(samples: int, models: int) -> list[range]:
    """Which samples each model draws: in turn, so that the first few do not depend on how many there are."""
    return [range(member, samples, models) for member in range(models)]
