"""A study and its shards on an object store: an S3 server on the loopback, over the wire."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sadm_ray.data.shards.prepared_study import SHARDS_FOLDER, Study, read_study, read_subject, row_locations
from sadm_ray.storage import Storage

pytestmark = pytest.mark.ray


def command(root: str, shards: str, run: Path) -> subprocess.CompletedProcess[str]:
    """In a process with a Ray of its own, whose workers know the server; those of the tests' Ray do not."""
    command_line = [sys.executable, "-m", "sadm_ray", "prepare", f"data.root={root}", f"data.shards={shards}"]
    settings = [f"run.dir={run}", "data.shape=[4,16,16]", "data.frames=8"]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    return subprocess.run(
        [*command_line, *settings], capture_output=True, text=True, timeout=200, env=environment, check=False
    )


def prepare(root: str, shards: str, run: Path) -> Study:
    done = command(root, shards, run)
    assert done.returncode == 0, done.stderr
    return read_study(shards)


def modified_times(location: str) -> dict[str, int]:
    return {entry.path: entry.modified for entry in Storage(f"{location}/{SHARDS_FOLDER}").entries()}


def test_a_study_on_s3(s3_bucket: str, phantom_study: Path, tmp_path: Path) -> None:
    source, bucket = Storage(str(phantom_study)), Storage(f"{s3_bucket}/phantom")
    for entry in source.entries():
        bucket.write(entry.path, source.read(entry.path))
    shards = f"{s3_bucket}/shards"
    remote = prepare(bucket.location, shards, tmp_path)
    local = prepare(source.location, str(tmp_path / "shards"), tmp_path)

    assert remote.location == shards
    assert remote.content == local.content
    assert remote.subjects == local.subjects
    assert len(row_locations(remote)) == 12
    for name in row_locations(remote):
        np.testing.assert_array_equal(read_subject(remote, name)["frames"], read_subject(local, name)["frames"])

    before = modified_times(shards)
    assert prepare(bucket.location, shards, tmp_path) == remote
    assert modified_times(shards) == before, "nothing is done twice"

    # A damaged upload is reported by its URL, and the others go on.
    damaged = "patient003/patient003_4d.nii.gz"
    bucket.write(damaged, source.read(damaged)[:2000])
    done = command(bucket.location, shards, tmp_path)
    assert done.returncode == 3
    assert f"patient003: {bucket.location}/{damaged}: breaks off" in done.stderr
    again = read_study(shards)
    assert set(row_locations(remote)) - set(row_locations(again)) == {"patient003"}
