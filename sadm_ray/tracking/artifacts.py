"""Files and datasets of a run as MLflow calls."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sadm_ray.tracking.mlflow_client import GoneError

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_path(client: MlflowClient, run: str, path: Path, folder: str | None) -> None:
    """Keep a file, or a folder with all that is in it.

    Raises:
        GoneError: it is no longer there.
    """
    if path.is_dir():
        client.log_artifacts(run, str(path), folder or path.name)
    elif path.exists():
        client.log_artifact(run, str(path), folder)
    else:
        raise GoneError(f"{path} is no longer there")


def log_content(client: MlflowClient, run: str, name: PurePosixPath, data: bytes, folder: str | None) -> None:
    """Keep bytes as a file of that name; folders in the name are folders there."""
    below = PurePosixPath(folder or "") / name.parent
    with tempfile.TemporaryDirectory() as here:
        file = Path(here) / name.name
        file.write_bytes(data)
        client.log_artifact(run, str(file), str(below) if below.parts else None)


def log_dataset(client: MlflowClient, run: str, facts: Mapping[str, Any]) -> None:
    """Name the data that the run uses; MLflow keeps a dataset of one name and digest once."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = facts["source"]
    dataset = Dataset(
        name=facts["name"],
        digest=facts["digest"],
        source_type=source.partition("://")[0] if "://" in source else "local",
        source=json.dumps({"uri": source}),
        profile=facts["profile"],
    )
    client.log_inputs(run, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
