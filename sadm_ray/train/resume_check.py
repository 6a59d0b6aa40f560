"""Checks the settings of a resumed run against `run.json`, which holds those that decide the result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sadm_ray.config import Settings, flatten
from sadm_ray.config.renamed_settings import LATER, current_name
from sadm_ray.data.shards.fingerprints import names_digest, split_digest
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.storage import Storage

RUN = "run.json"

_CHANGEABLE = {
    "workers", "min_workers", "micro_batch", "on_out_of_memory", "parallel", "device", "compile",
    "recompute_activations", "storage", "checkpoint_every", "keep_checkpoints", "log_every", "max_failures",
}  # fmt: skip
"""Settings of training that do not change the result (but for rounding), so that a resumed run may change them."""


SPLITS = {"study.train": "train", "study.val": "val"}
"""Who was trained on, and who was validated on, which chooses among averages and may end the training."""


def refuse_changes(settings: Settings, study: Study, config: ModelConfig, storage: Storage) -> dict[str, Any]:
    """Refuse to resume a run with other decisive settings; a new run writes its own down.

    Returns:
        the settings that decide the result.

    Raises:
        ConfigError: some have changed; lists each with its value before and now.
    """
    now = _decisive(settings, study, config)
    before = _read(storage)
    if before is None:
        storage.write(RUN, json.dumps(now, indent=2).encode())
        return now
    for key, split in SPLITS.items():  # an earlier version counted those who train, and nobody else
        if before.get(key) in (None, len(study.subjects.get(split, ()))):
            before[key] = now[key]
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


def require_begun(storage: Storage) -> None:
    """Raise ConfigError where nothing says with what the training of the checkpoints in this folder was begun."""
    if _read(storage) is None:
        raise ConfigError(
            f"{storage.where()}: has checkpoints, but no {RUN}, so that nobody knows with what and on whom they were "
            "trained; remove them to begin anew, or take another run.name"
        )


def refuse_foreign(state: Mapping[str, Any], checkpoint: str, study: Study) -> None:
    """Refuse a checkpoint that was copied here from a training on other people: its weights have seen them.

    Args:
        state: the content of its `state.json`; earlier versions did not write down who trains.
        checkpoint: its folder, for the message.

    Raises:
        ConfigError: it was.
    """
    if state["study"].get("split", split_digest(study)) != split_digest(study):
        raise ConfigError(
            f"{checkpoint}: is of a training on other subjects than those of this split; remove it, or take another "
            "run.name for another split"
        )


def is_begun(storage: Storage) -> bool:
    """Whether a training has been begun whose checkpoints are, or will be, in this folder."""
    return _read(storage) is not None


def _read(storage: Storage) -> dict[str, Any] | None:
    try:
        return {current_name(key): value for key, value in json.loads(storage.read(RUN)).items()}
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError):
        raise DataError(
            f"{storage.where(RUN)}: not what a training has written; remove {storage.where()} to begin anew"
        ) from None


def _decisive(settings: Settings, study: Study, config: ModelConfig) -> dict[str, Any]:
    train = settings.train
    left_out = {*_CHANGEABLE, "seed"}  # `training_seed` stands for it
    left_out |= {key for key in LATER if not getattr(train, key)}  # earlier versions did not know them
    if train.schedule == "constant":
        left_out.add("steps")  # a longer run begins with the same steps
    if train.validation.patience is None:
        left_out.add("validation")  # without early stopping it decides nothing
    train = train.model_copy(update={"start_from": train.start_from and Storage(train.start_from).location})
    kept = {key: value for key, value in flatten(train).items() if key.split(".")[0] not in left_out}
    decisive = {
        "seed": settings.training_seed,
        **flatten(config),
        **{f"train.{key}": value for key, value in kept.items()},
        "study.content": study.content,
        **{key: _who(study.subjects.get(split, ())) for key, split in SPLITS.items()},
    }
    return dict(json.loads(json.dumps(decisive, default=lambda section: section.model_dump(mode="json"))))


def _who(names: Sequence[str]) -> str:
    """How many they are, and a digest of their names: another fold has as many."""
    return f"{len(names)} subjects, {names_digest(names)}"
