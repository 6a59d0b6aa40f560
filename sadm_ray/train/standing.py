"""Where a training stands, apart from its tensors: what `state.json` tells, and what it was begun with."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sadm_ray import __version__
from sadm_ray.config import Settings, TrainSettings, flatten
from sadm_ray.data.storage import Storage
from sadm_ray.data.study import Study
from sadm_ray.errors import ConfigError
from sadm_ray.model.config import ModelConfig

RUN = "run.json"

_HOW = {
    "workers", "min_workers", "micro_batch", "on_out_of_memory", "parallel", "device", "compile",
    "recompute_activations", "storage", "checkpoint_every", "keep_checkpoints", "log_every", "max_failures",
}  # fmt: skip
"""Settings of training that decide how it is done, not what comes out (but for rounding): these may change."""


@dataclass
class Standing:
    """Counts and judgements of a run that its next step depends on.

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
        """All that a checkpoint tells beside its tensors."""
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
    def from_json(cls, told: Mapping[str, Any]) -> Standing:
        """What `to_json` told."""
        return cls(**{key: told[key] for key in cls.__dataclass_fields__})


def refuse_changes(settings: Settings, study: Study, config: ModelConfig, storage: Storage) -> dict[str, Any]:
    """A run goes on with what it was begun with, or not at all; the first time, that is written down.

    Returns:
        the settings that decide the result.

    Raises:
        ConfigError: one of them has changed; with each one, before and now.
    """
    now = _decisive(settings, study, config)
    try:
        begun = json.loads(storage.read(RUN))
    except FileNotFoundError:
        storage.write(RUN, json.dumps(now, indent=2).encode())
        return now
    changed = [
        f"{key} ({begun.get(key)} before, {now.get(key)} now)"
        for key in dict.fromkeys([*now, *begun])
        if now.get(key) != begun.get(key)
    ]
    if changed:
        raise ConfigError(
            f"run.name: {settings.run.name} was begun with other settings: {', '.join(changed)}; take another "
            f"run.name, or remove {storage.where()} to begin anew"
        )
    return now


def _decisive(settings: Settings, study: Study, config: ModelConfig) -> dict[str, Any]:
    train = settings.train
    left_out = {*_HOW, "seed"}  # told by `training_seed`
    if train.schedule == "constant":
        left_out.add("steps")  # a longer run begins with the same steps
    if train.validation.patience is None:
        left_out.add("validation")  # it decides nothing
    kept = {key: value for key, value in flatten(train).items() if key.split(".")[0] not in left_out}
    told = {
        "seed": settings.training_seed,
        **flatten(config),
        **{f"train.{key}": value for key, value in kept.items()},
        "study.content": study.content,
        "study.train": len(study.subjects.get("train", ())),
    }
    return dict(json.loads(json.dumps(told, default=lambda section: section.model_dump(mode="json"))))
