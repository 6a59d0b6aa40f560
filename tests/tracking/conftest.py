"""A sqlite store and settings that point to it. The making of a store takes seconds, so there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sadm_ray.config import Settings
from sadm_ray.tracking.driver_logging import close_all

MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of an empty sqlite store."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    MlflowClient(uri).search_experiments()
    return uri


@pytest.fixture
def client(store: str) -> Any:
    """A client that reads what arrived."""
    from mlflow import MlflowClient

    return MlflowClient(store)


@pytest.fixture
def make_settings(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeSettings]:
    """Settings of a run in a folder of its own; an experiment of its own too."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(uri: str = store, **more: Any) -> Settings:
        tracking = {"uri": uri, "experiment": tmp_path.name}
        return Settings.model_validate({"run": {"name": "tiny", "dir": str(tmp_path)}, "tracking": tracking, **more})

    yield make
    close_all()


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """A run on the store."""
    return make_settings()


@pytest.fixture
def runs(settings: Settings, client: Any) -> Callable[[], dict[str, Any]]:
    """All MLflow runs of the settings, by name."""

    def found() -> dict[str, Any]:
        experiment = client.get_experiment_by_name(settings.tracking.experiment)
        rows = client.search_runs([experiment.experiment_id])
        assert len({row.info.run_name for row in rows}) == len(rows)
        return {row.info.run_name: row for row in rows}

    return found
