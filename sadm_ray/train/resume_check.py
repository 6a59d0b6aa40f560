"""Checks the settings of a resumed run against `run.json`, which holds those that decide the result."""

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

_CHANGEABLE = {
    "workers", "min_workers", "micro_batch", "on_out_of_memory", "parallel", "device", "compile",
    "recompute_activations", "storage", "checkpoint_every", "keep_checkpoints", "log_every", "max_failures",
}  # fmt: skip
"""Settings of training that do not change the result (but for rounding), so that a resumed run may change them."""


def refuse_changes(settings: Settings, study: Study, config: ModelConfig, storage: Storage) -> dict[str, Any]:
    """Refuse to resume a run with other decisive settings; a new run writes its own down.

    Returns:
        the settings that decide the result.

    Raises:
        ConfigError: some have changed; lists each with its value before and now.
    """
    now = _decisive(settings, study, config)
    try:
        before = {current_name(key): value for key, value in json.loads(storage.read(RUN)).items()}
    except FileNotFoundError:
        storage.write(RUN, json.dumps(now, indent=2).encode())
        return now
    changed = [
        f"{key} ({before.get(key)} before, {now.get(key)} now)"
        for key in dict.fromkeys([*now, *before])
        if now.get(key) != before.get(key)
    ]
    if changed:
        raise ConfigError(
            f"run.name: {settings.run.name} was begun with other settings: {', '.join(changed)}; take another "
            f"run.name, or remove {storage.where()} to begin anew"
        )
    return now


def _decisive(settings: Settings, study: Study, config: ModelConfig) -> dict[str, Any]:
    train = settings.train
    left_out = {*_CHANGEABLE, "seed"}  # `training_seed` stands for it
    if train.schedule == "constant":
        left_out.add("steps")  # a longer run begins with the same steps
    if train.validation.patience is None:
        left_out.add("validation")  # without early stopping it decides nothing
    kept = {key: value for key, value in flatten(train).items() if key.split(".")[0] not in left_out}
    decisive = {
        "seed": settings.training_seed,
        **flatten(config),
        **{f"train.{key}": value for key, value in kept.items()},
        "study.content": study.content,
        "study.train": len(study.subjects.get("train", ())),
    }
    return dict(json.loads(json.dumps(decisive, default=lambda section: section.model_dump(mode="json"))))
