"""Finding Ray."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sadm_ray.cluster import _left_behind, ray_session
from sadm_ray.config import Settings
from sadm_ray.errors import ConfigError


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Ray writes the address of the last cluster of this machine."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_a_cluster_that_died_is_not_waited_for(named: Path) -> None:
    assert _left_behind() is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        named.write_text(address)
        assert _left_behind() is None, "it answers"
    assert _left_behind() == address
    named.write_text("nonsense")
    assert _left_behind() is None


def test_a_dead_cluster_that_was_asked_for_is_said(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    named.write_text(address)
    settings = Settings.model_validate({"ray": {"address": "auto"}})
    with pytest.raises(ConfigError, match=rf"ray\.address: no Ray cluster answers at {address}"), ray_session(settings):
        pass
