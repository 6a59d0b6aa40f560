"""What all tests share: one thread a process, one local Ray, one small phantom, and the real scans where there are."""

from __future__ import annotations

import os

# Before numpy and torch are imported: spinning threads on shared cores cost more than they bring.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
hypothesis.settings.register_profile("ours", deadline=None)  # a busy machine is no fault of ours
hypothesis.settings.load_profile("ours")

import tests.typecheck  # noqa: E402, F401  # the hook below looks it up

# The shapes that the signatures promise are checked whenever a test calls them.
with install_import_hook("sadm_ray.data", "tests.typecheck.checked"):
    from sadm_ray.config import PhantomSettings
    from sadm_ray.data import phantom

from tests.s3 import s3_bucket  # noqa: E402, F401


@pytest.fixture(scope="session")
def ray_local(s3_bucket: str) -> Iterator[None]:  # noqa: F811
    """A Ray of this test session alone; with a CPU beside those of two workers, as commands have it.

    It starts after the S3 server, which its workers know of.
    """
    from sadm_ray.cluster import ray_session
    from sadm_ray.config import Settings

    with ray_session(Settings.model_validate({"ray": {"address": "local", "object_store_gb": 0.5}})):
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; a test without them is skipped."""
    folder = Path(os.environ.get("SADM_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real scans in {folder}; set SADM_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def phantom_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of 12 subjects on a tiny grid, written once; read it, do not change it."""
    root = tmp_path_factory.mktemp("phantom")
    phantom.write_phantom(root, PhantomSettings(subjects=12, shape=(4, 24, 24)), seed=0)
    return root


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> str:
    """The study of `tests.tiny`, prepared once; read it, do not change it."""
    from sadm_ray import steps
    from tests.tiny import settings_for

    settings = settings_for(tmp_path_factory.mktemp("study"))
    steps.prepare(settings)
    return str(settings.run_dir / "shards")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first: one that came last would keep one of two processes waiting."""
    long = {item.path for item in items if any(map(item.get_closest_marker, ("ray", "long")))}
    items.sort(key=lambda item: item.path not in long)
