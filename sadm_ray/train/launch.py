"""The one `TorchTrainer` of the project."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from sadm_ray.config import Settings, flatten
from sadm_ray.data.study import Study
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.model.sadm import CONFIG, Sadm, SadmConfig
from sadm_ray.progress import progress
from sadm_ray.tracking import TrackedRun
from sadm_ray.train.checkpoint import EMA
from sadm_ray.train.loop import Work, train_worker


@dataclass(frozen=True)
class Trained:
    """Where the trained model lies (`Sadm.from_pretrained`), and facts about it."""

    folder: Path
    facts: dict[str, Any]


def model_config(settings: Settings, study: Study) -> SadmConfig:
    """The model's own config: the settings, with what is measured on the study filled in."""
    model = settings.model
    if model.difference_scale is None:
        if not study.difference_scale > 0:
            raise DataError(
                f"{study.location}: the frames of every training subject are equal; there is nothing to learn"
            )
        model = model.model_copy(update={"difference_scale": study.difference_scale})
    return SadmConfig(shape=study.shape, model=model, diffusion=settings.diffusion, preparation=study.preparation)


def train_model(settings: Settings, study: Study, out: Path, tracked: TrackedRun) -> Trained:
    """Train on the shards' training subjects; run again, it goes on from the newest checkpoint.

    Args:
        out: the trained EMA model is put there; Ray Train's own files lie beside it, in `<out>.ray`.

    Raises:
        ConfigError: more workers than subjects, or a GPU asked for that is not there.
    """
    workers = settings.train.workers
    subjects = len(study.names("train"))
    if subjects < workers:
        raise ConfigError(f"train.workers: {workers} workers cannot share {subjects} training subjects; use fewer")
    config = model_config(settings, study)
    facts = Sadm(config).describe()
    tracked.params(facts)
    storage = out.with_name(out.name + ".ray")
    _refuse_other_model(config, storage)
    with progress("train", settings.train.steps) as reporter:
        work = Work(settings.seed, study, config, settings.train, tracked, reporter)
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"work": work},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=_use_gpu(settings)),
            run_config=RunConfig(
                name="train",
                storage_path=str(storage),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                failure_config=FailureConfig(max_failures=settings.train.max_failures),
            ),
        )
        result = trainer.fit()
    if result.checkpoint is None:
        raise RuntimeError("training ended without a checkpoint")
    with result.checkpoint.as_directory() as folder:
        shutil.copytree(Path(folder) / EMA, out, dirs_exist_ok=True)
    tracked.artifact(out, "model")
    return Trained(out, facts)


def _refuse_other_model(config: SadmConfig, storage: Path) -> None:
    """A run goes on with the model that it began with, or not at all."""
    file = storage / CONFIG
    if file.exists():
        begun = flatten(SadmConfig.model_validate_json(file.read_text(encoding="utf-8")))
        changed = [
            f"{key} ({begun.get(key)} before, {value} now)"
            for key, value in flatten(config).items()
            if value != begun.get(key)
        ]
        if changed:
            raise ConfigError(
                f"run.name: {storage.parent.name} was begun with another model: {', '.join(changed)}; "
                f"take another run.name, or remove {storage} to begin anew"
            )
    storage.mkdir(parents=True, exist_ok=True)
    file.write_text(config.model_dump_json(indent=2), encoding="utf-8")


def _use_gpu(settings: Settings) -> bool:
    available = ray.cluster_resources().get("GPU", 0)
    if settings.train.device == "gpu" and available < settings.train.workers:
        raise ConfigError(
            f"train.device: {settings.train.workers} workers want a GPU each, the cluster has {available:g}; "
            "use device=cpu, device=auto or fewer workers"
        )
    return settings.train.device != "cpu" and available >= settings.train.workers
