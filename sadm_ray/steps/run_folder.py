"""The folder of a run: where its study and shards are, and what must hold before a step works in it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sadm_ray.config import Settings
from sadm_ray.data.shards.prepared_study import STUDY_FILE, Study, data_digest, read_study
from sadm_ray.errors import ConfigError
from sadm_ray.run_lock import alone_in
from sadm_ray.storage import Storage

if TYPE_CHECKING:
    from sadm_ray.model.model_config import ModelConfig

_Result = TypeVar("_Result")


def alone_in_run(step: Callable[[Settings], _Result]) -> Callable[[Settings], _Result]:
    """A step that refuses to work in a run's folder where another command is at work."""

    @functools.wraps(step)
    def locked(settings: Settings) -> _Result:
        with alone_in(settings.run_dir, "run.name"):
            return step(settings)

    return locked


def study_root(settings: Settings) -> str:
    """The study's folder, file or URL: the one that the settings name, else the phantom's folder."""
    return settings.data.root or str(settings.run_dir / "study")


def shards_folder(settings: Settings) -> str:
    """The folder or URL of the shards: the one that the settings name, else in the run's folder."""
    return settings.data.shards or str(settings.run_dir / "shards")


def is_prepared(settings: Settings) -> bool:
    """Whether there are shards, or something that cannot be read where they should be."""
    try:
        return Storage(shards_folder(settings)).entry(STUDY_FILE) is not None
    except OSError:
        return True  # reading it raises the error


def prepared_study(settings: Settings) -> Study:
    """The prepared study, refused when it was prepared with other settings than these.

    Where its label maps are is what the settings say now: shards do not depend on it.
    """
    study = read_study(shards_folder(settings))
    wanted = data_digest(settings)
    if study.digest != wanted:
        raise ConfigError(
            f"{study.location}: prepared with other data settings (digest {study.digest[:12]}, these "
            f"have {wanted[:12]}); run `sadm-ray prepare` again, or take another run.name"
        )
    return replace(study, settings={**study.settings, "labels": settings.data.labels})


def check_preparation(folder: Path | str, trained: ModelConfig, study: Study) -> None:
    """Refuse, before any worker starts, a model that was trained on volumes of another preparation."""
    if trained.preparation and trained.preparation != study.preparation:
        times = f"times in {trained.time_unit} against {study.time_unit}"
        raise ConfigError(
            f"{folder}: trained on volumes prepared with other settings (digest {trained.preparation[:12]}) than those "
            f"of {study.location} (digest {study.preparation[:12]}; {times}); prepare with the model's settings, "
            "or train again"
        )
