"""A study and its shards on an object store: an S3 server on the loopback, over the wire."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sadm_ray.cli import main
from sadm_ray.data.shards.prepared_study import SHARDS_FOLDER, read_study, read_subject, row_locations
from sadm_ray.storage import Storage

pytestmark = pytest.mark.ray


def prepare(root: str, shards: str, run: Path) -> int:
    """The exit code of `sadm-ray prepare`."""
    settings = [f"run.dir={run}", "data.shape=[4,16,16]", "data.frames=8"]
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", f"data.root={root}", f"data.shards={shards}", *settings])
    return int(stopped.value.code or 0)


def modified_times(location: str) -> dict[str, int]:
    return {entry.path: entry.modified for entry in Storage(f"{location}/{SHARDS_FOLDER}").entries()}


def test_a_study_on_s3(
    s3_bucket: str, ray_local: None, phantom_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, bucket = Storage(str(phantom_study)), Storage(f"{s3_bucket}/phantom")
    for entry in source.entries():
        bucket.write(entry.path, source.read(entry.path))
    shards = f"{s3_bucket}/shards"
    assert prepare(bucket.location, shards, tmp_path) == 0
    assert prepare(source.location, str(tmp_path / "shards"), tmp_path) == 0
    remote, local = read_study(shards), read_study(str(tmp_path / "shards"))

    assert remote.location == shards
    assert remote.content == local.content
    assert remote.subjects == local.subjects
    assert len(row_locations(remote)) == 12
    for name in row_locations(remote):
        np.testing.assert_array_equal(read_subject(remote, name)["frames"], read_subject(local, name)["frames"])

    before = modified_times(shards)
    assert prepare(bucket.location, shards, tmp_path) == 0
    assert read_study(shards) == remote
    assert modified_times(shards) == before, "nothing is done twice"

    # A damaged upload is reported by its URL, and the others go on.
    damaged = "patient003/patient003_4d.nii.gz"
    bucket.write(damaged, source.read(damaged)[:2000])
    assert prepare(bucket.location, shards, tmp_path) == 3
    assert f"patient003: {bucket.location}/{damaged}: breaks off" in capsys.readouterr().err
    again = read_study(shards)
    assert set(row_locations(remote)) - set(row_locations(again)) == {"patient003"}
