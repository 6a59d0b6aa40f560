"""Trainings under Ray Train on one tiny phantom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sadm_ray import steps
from sadm_ray.config import Settings
from tests.test_journey import settings_for


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> str:
    """A tiny phantom, prepared once."""
    settings = settings_for(tmp_path_factory.mktemp("study"))
    steps.prepare(settings)
    return str(settings.run_dir / "shards")


def settings_with(folder: Path, shards: str, **train: Any) -> Settings:
    tree = settings_for(folder, **{"workers": 1, **train}).model_dump(mode="json", exclude_defaults=True)
    tree["data"]["shards"] = shards
    return Settings.model_validate(tree)
