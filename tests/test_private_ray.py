"""A command's own Ray: what it is not taken for, and the folder that it leaves nothing of."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sadm_ray import private_ray
from sadm_ray.errors import ConfigError
from sadm_ray.private_ray import private_folder, recorded_cluster, started_cluster


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ray's usual temporary folder, of a short path as it must be."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as base:
        monkeypatch.setenv("RAY_TMPDIR", base)
        folder = Path(base) / "ray"
        folder.mkdir()
        yield folder


class _Process:
    def __init__(self, name: str, began: float, *cmdline: str) -> None:
        self.info = {"name": name, "cmdline": list(cmdline), "create_time": began}


def raylet(address: str, folder: Path, began: float = 0.0) -> _Process:
    return _Process("raylet", began, "/ray/raylet", f"--gcs-address={address}", f"--temp_dir={folder}", "--head")


def running(monkeypatch: pytest.MonkeyPatch, *processes: Any) -> None:
    monkeypatch.setattr(private_ray.psutil, "process_iter", lambda names: iter(processes))


def test_a_cluster_is_one_that_ray_start_has_recorded_and_whose_raylet_runs(
    usual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = raylet("10.0.0.1:40001", usual, began=9.0)
    running(monkeypatch, private, _Process("bash", 0.0, "--gcs-address=10.0.0.1:6379"), _Process("raylet", 0.0))
    assert started_cluster() is None, "a private Ray only"
    (usual / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    assert recorded_cluster() == "10.0.0.1:6379"
    assert started_cluster() is None, "the one that was recorded is dead"
    running(monkeypatch, private, raylet("10.0.0.1:6379", usual))
    assert started_cluster() == "10.0.0.1:6379"


def test_of_several_clusters_the_one_in_the_usual_folder_is_meant_and_else_the_newest(
    usual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(others):
        folder.mkdir()
        (folder / "ray_current_cluster").write_text(f"10.0.0.1:{number}")
    here = [raylet(f"10.0.0.1:{number}", folder, began=5.0 - number) for number, folder in enumerate(others)]
    running(monkeypatch, *here)
    assert started_cluster() == "10.0.0.1:0"
    (usual / "ray_current_cluster").write_text("10.0.0.1:9")
    running(monkeypatch, *here, raylet("10.0.0.1:9", usual))
    assert started_cluster() == "10.0.0.1:9"


def test_what_is_recorded_may_be_unreadable(usual: Path) -> None:
    for content in (b"", b"\xff\xfe"):
        (usual / "ray_current_cluster").write_bytes(content)
        assert recorded_cluster() is None


def test_a_folder_goes_with_its_command(usual: Path) -> None:
    with private_folder() as one, private_folder() as other:
        assert one.is_dir()
        assert one != other
        (one / "session_latest").mkdir()
    assert list(usual.parent.iterdir()) == [usual]


def test_abandoned_folders_are_removed_after_a_day_and_those_in_use_never(usual: Path) -> None:
    base, names = usual.parent, ("sadm-usedused", "sadm-abandone", "sadm-recently", "sadm-somebody", "sadm")
    for name in names:
        (base / name).mkdir()
        if name != "sadm-somebody":  # a folder without an owner's file is not ours
            (base / name / "owner").touch()
            os.utime(base / name / "owner", (0.0, time.time() if name == "sadm-recently" else 0.0))
    with (base / "sadm-usedused" / "owner").open("w") as lock:
        os.utime(lock.fileno(), (0.0, 0.0))
        fcntl.flock(lock, fcntl.LOCK_EX)
        with private_folder():
            left = {folder.name for folder in base.iterdir()} - {usual.name}
    assert {"sadm-usedused", "sadm-recently", "sadm-somebody", "sadm"} <= left
    assert "sadm-abandone" not in left


def test_a_folder_too_deep_for_sockets_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = str(tmp_path / ("deep" * 20))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", deep)
    with private_folder() as folder:
        assert folder.parent == Path("/tmp"), "TMPDIR was not set with Ray in mind"  # noqa: S108
    monkeypatch.setenv("RAY_TMPDIR", deep)
    with pytest.raises(ConfigError, match=r"^RAY_TMPDIR: '.*' is too long .* set it to a shorter"), private_folder():
        pass
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    with pytest.raises(ConfigError, match=r"^RAY_TMPDIR: no folder .*'/proc/nowhere' \(No such file"), private_folder():
        pass


def test_the_longest_path_is_that_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this grows with a new Ray, `_LONGEST_BELOW` must."""
    from ray._private.utils import validate_socket_filepath

    base = "/" + "b" * (107 - len("/sadm-12345678") - private_ray._LONGEST_BELOW - 1)
    monkeypatch.setenv("RAY_TMPDIR", base)
    with pytest.raises(ConfigError, match="no folder for Ray can be made"), private_folder():
        pass
    validate_socket_filepath(f"{base}/sadm-12345678/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


def test_a_lock_is_not_inherited_by_what_ray_starts(usual: Path) -> None:
    """Else a folder would be in use for as long as a process of Ray is left over."""
    with private_folder() as folder:
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
        opened = {file.path for file in psutil.Process(child.pid).open_files()}
        child.kill()
        child.wait()
    assert str(folder / "owner") not in opened
