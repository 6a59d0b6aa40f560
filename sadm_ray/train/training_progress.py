"""The progress of a training, as `state.json` holds it, and early stopping."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sadm_ray import __version__
from sadm_ray.config import Settings, TrainSettings
from sadm_ray.data.shards.fingerprints import split_digest
from sadm_ray.data.shards.prepared_study import Study


@dataclass
class TrainingProgress:
    """Counters of a run, and its early stopping.

    Attributes:
        step: steps done.
        epoch, subjects_read: passes through the subjects that were started, and subjects read.
        validated: the newest result of validation, by name.
        best: the best score that early stopping has seen; none before the first validation.
        since_best: validations since the best one.
        ended_early: early stopping ended the training.
    """

    step: int = 0
    epoch: int = 0
    subjects_read: int = 0
    guard: dict[str, float] = field(default_factory=dict)
    validated: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    since_best: int = 0
    ended_early: bool = False

    def update_best(self, settings: TrainSettings) -> bool:
        """Compare `validated` with the best score; returns whether it is the new best."""
        metric = settings.validation.stop_on
        score = self.validated["val_psnr"] if metric == "psnr" else -self.validated["val_loss"]
        if self.best is None or score > self.best:
            self.best, self.since_best = score, 0
            return True
        self.since_best += 1
        return False

    def to_json(self, settings: Settings, study: Study, world: int) -> dict[str, Any]:
        """The content of `state.json`."""
        import numpy
        import ray
        import torch

        versions = {"sadm_ray": __version__, "python": platform.python_version(), "torch": torch.__version__}
        versions |= {"ray": ray.__version__, "numpy": numpy.__version__}
        return {
            **asdict(self),
            "workers": world,
            "seed": settings.training_seed,
            "study": {
                "digest": study.digest,
                "preparation": study.preparation,
                "content": study.content,
                "split": split_digest(study),
            },
            "settings": settings.model_dump(mode="json", include={"model", "diffusion", "train"}),
            "versions": versions,
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> TrainingProgress:
        """The inverse of `to_json`."""
        return cls(**{key: state[key] for key in cls.__dataclass_fields__})
