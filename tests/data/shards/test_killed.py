"""A preparation that is killed goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from sadm_ray.config import PhantomSettings
from sadm_ray.data.phantom import write_phantom
from sadm_ray.data.shards.prepared_study import read_study
from sadm_ray.storage import Storage
from tests.processes import kill_everything, start

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def prepare(root: Path, run: Path) -> subprocess.Popen[bytes]:
    return start("prepare", f"data.root={root}", f"run.dir={run}", "run.name=killed")


def content(run: Path) -> dict[str, bytes]:
    storage = Storage(str(run / "killed" / "shards"))
    return {entry.path: storage.read(entry.path) for entry in storage.entries() if entry.path != "_study.json"}


def shard_times(shards: Path) -> set[tuple[str, int]]:
    return {(file.name, file.stat().st_mtime_ns) for file in shards.glob("*.parquet")}


@pytest.mark.timeout(1500)
def test_killed_at_random_moments(tmp_path: Path) -> None:
    root = tmp_path / "study"
    write_phantom(root, PhantomSettings(subjects=120, shape=(8, 48, 48)), seed=0)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "run"
    assert prepare(root, undisturbed).wait() == 0
    shards = killed / "killed" / "shards" / "parts"

    random, seen = np.random.default_rng(), set()
    for number in range(2):
        job = prepare(root, killed)
        wanted = len(seen) + random.integers(number, 3)  # the second kill finds a shard to keep
        while job.poll() is None and len(shard_times(shards)) < wanted:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
        kill_everything(job)
        assert seen <= shard_times(shards), "an existing shard is not made again"
        seen = shard_times(shards)
    assert len(seen) > 0
    assert prepare(root, killed).wait() == 0

    assert content(killed) == content(undisturbed)
    one, other = (read_study(str(run / "killed" / "shards")) for run in (killed, undisturbed))
    assert (one.content, one.subjects, one.difference_scale) == (other.content, other.subjects, other.difference_scale)
    left = {file.name for file in shards.iterdir()}
    assert all(name.endswith(".parquet") and not name.startswith(".") for name in left), "nothing half-written is left"
