"""Which settings a run may change when it is resumed: `run.json` holds those that decide its result."""

from __future__ import annotations

import json
from typing import Any

from sadm_ray.config import Settings, flatten
from sadm_ray.config.renamed_settings import current_name
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.storage import Storage

RUN = "run.json"

_HOW = {
    "workers", "min_workers", "micro_batch", "on_out_of_memory", "parallel", "device", "compile",
    "recompute_activations", "storage", "checkpoint_every", "keep_checkpoints", "log_every", "max_failures",
}  # fmt: skip
"""Settings of training that decide how it is done, not what comes out (but for rounding): these may change."""


def refuse_changes(settings: Settings, study: Study, config: ModelConfig, storage: Storage) -> dict[str, Any]:
    """A run goes on with what it was begun with, or not at all; the first time, that is written down.

    Returns:
        the settings that decide the result.

    Raises:
        ConfigError: one of them has changed; with each one, before and now.
    """
    now = _decisive(settings, study, config)
    try:
        begun = {current_name(key): value for key, value in json.loads(storage.read(RUN)).items()}
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
    left_out = {*_HOW, "seed"}  # `training_seed` stands for it
    if train.schedule == "constant":
        left_out.add("steps")  # a longer run begins with the same steps
    if train.validation.patience is None:
        left_out.add("validation")  # it decides nothing
    kept = {key: value for key, value in flatten(train).items() if key.split(".")[0] not in left_out}
    decisive = {
        "seed": settings.training_seed,
        **flatten(config),
        **{f"train.{key}": value for key, value in kept.items()},
        "study.content": study.content,
        "study.train": len(study.subjects.get("train", ())),
    }
    return dict(json.loads(json.dumps(decisive, default=lambda section: section.model_dump(mode="json"))))
