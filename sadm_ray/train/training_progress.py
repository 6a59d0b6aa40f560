"""The progress of a training, apart from its tensors: what `state.json` holds; and early stopping."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sadm_ray import __version__
from sadm_ray.config import Settings, TrainSettings
from sadm_ray.data.shards.prepared_study import Study


@dataclass
class TrainingProgress:
    """Counters of a run, and its early stopping.

    Attributes:
        step: steps done.
        epoch, subjects_read: passes through the subjects that were begun, and subjects read.
        validated: the newest result of validation, by name.
        best: of the score that early stopping watches; none before the first validation.
        since_best: validations since then.
        ended_early: validation has not become better any more, and nothing is left to do.
    """

    step: int = 0
    epoch: int = 0
    subjects_read: int = 0
    guard: dict[str, float] = field(default_factory=dict)
    validated: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    since_best: int = 0
    ended_early: bool = False

    def judge(self, settings: TrainSettings) -> bool:
        """Take in `validated`; returns whether it is the best so far."""
        watched = settings.validation.stop_on
        score = self.validated["val_psnr"] if watched == "psnr" else -self.validated["val_loss"]
        if self.best is None or score > self.best:
            self.best, self.since_best = score, 0
            return True
        self.since_best += 1
        return False

    def to_json(self, settings: Settings, study: Study, world: int) -> dict[str, Any]:
        """All that a checkpoint holds beside its tensors."""
        import numpy
        import ray
        import torch

        versions = {"sadm_ray": __version__, "python": platform.python_version(), "torch": torch.__version__}
        versions |= {"ray": ray.__version__, "numpy": numpy.__version__}
        return {
            **asdict(self),
            "workers": world,
            "seed": settings.training_seed,
            "study": {"digest": study.digest, "preparation": study.preparation, "content": study.content},
            "settings": settings.model_dump(mode="json", include={"model", "diffusion", "train"}),
            "versions": versions,
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> TrainingProgress:
        """The inverse of `to_json`."""
        return cls(**{key: state[key] for key in cls.__dataclass_fields__})
