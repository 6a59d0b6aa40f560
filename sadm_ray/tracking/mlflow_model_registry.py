"""Trained models in MLflow's registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sadm_ray.tracking.artifacts import log_path
from sadm_ray.tracking.mlflow_client import is_code

if TYPE_CHECKING:
    from mlflow import MlflowClient


def register_model(client: MlflowClient, run: str, folder: Path, name: str, tags: Mapping[str, str]) -> None:
    """Keep the folder as an artifact of the run, and make it a new version of the registered model.

    A version of the same run with the same `digest` tag is not made twice: the command was repeated, or the driver was
    killed after the call.
    """
    versions = client.search_model_versions(f"run_id = '{run}'")
    if any(known.name == name and known.tags.get("digest") == tags.get("digest") for known in versions):
        return
    # Logged again even where a folder of that name is there: that may be of an earlier training, or half of one.
    log_path(client, run, folder, folder.name)
    try:
        client.create_registered_model(name)
    except Exception as error:
        if not is_code(error, "RESOURCE_ALREADY_EXISTS"):
            raise
    # An address in the artifacts of the run: a server takes no other local path. (`runs:/…` would be kept as it is, and
    # a client of the registry alone could not open it.)
    source = f"{client.get_run(run).info.artifact_uri.rstrip('/')}/{folder.name}"
    client.create_model_version(name, source, run_id=run, tags=dict(tags), await_creation_for=0)
