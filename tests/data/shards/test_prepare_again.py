"""A study that is prepared again: only what is new or changed is done, and the study before stays readable."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sadm_ray.config import Settings
from sadm_ray.data.find import find_subjects
from sadm_ray.data.find.catalog import SPLITS
from sadm_ray.data.shards.prepare import prepare_study
from sadm_ray.data.shards.prepared_study import (
    SUBJECTS_FOLDER,
    RowLocation,
    Study,
    read_row,
    read_subject,
    row_locations,
)
from sadm_ray.data.shards.shard_writer import make_shard, plan_shards
from sadm_ray.storage import Storage
from tests.data.patients import write_cine
from tests.data.shards.test_prepare import settings_with


@pytest.fixture(scope="session")
def settings() -> Settings:
    return settings_with()


@pytest.mark.ray
def test_another_fold_reads_no_scan(phantom_study: Path, tmp_path: Path, ray_local: None) -> None:
    root, out = tmp_path / "study", str(tmp_path / "shards")
    shutil.copytree(phantom_study, root)
    folds = [
        prepare_study(settings_with("data.split.folds=3", f"data.split.fold={fold}"), str(root), out)
        for fold in range(3)
    ]
    assert len({study.digest for study in folds}) == 3
    assert len({study.content for study in folds}) == 1
    assert sorted(name for study in folds for name in study.names("test")) == sorted(
        name for split in SPLITS for name in folds[0].subjects[split]
    )


@pytest.mark.ray
def test_read_after_the_shards_moved(phantom_study: Path, tmp_path: Path, ray_local: None, settings: Settings) -> None:
    """A copied study has files of other times: other shards of the same content, in a process that read the first."""
    root, out = tmp_path / "study", str(tmp_path / "shards")
    shutil.copytree(phantom_study, root)
    first = prepare_study(settings, str(root), out)
    places = row_locations(first)
    rows = {name: read_subject(first, name)["frames"] for name in places}
    for file in root.rglob("*.nii.gz"):
        os.utime(file, (0, 0))

    second = prepare_study(settings, str(root), out)
    assert second.content == first.content
    assert set(row_locations(second).values()).isdisjoint(places.values())
    for name, frames in rows.items():
        np.testing.assert_array_equal(read_subject(second, name)["frames"], frames)
    assert Storage(out).files(SUBJECTS_FOLDER) == [second.subjects_file], "the unused table is gone"


@pytest.mark.ray
def test_only_what_is_new_or_changed_is_done(
    phantom_study: Path, tmp_path: Path, ray_local: None, settings: Settings
) -> None:
    root, out = tmp_path / "study", str(tmp_path / "shards")
    shutil.copytree(phantom_study, root)
    each = settings_with("data.split.method=stable", "data.split.test=0.4")
    first = prepare_study(each, str(root), out)
    rows = {name: read_subject(first, name)["frames"] for name in row_locations(first)}

    write_cine(root, "zoe")  # a new one
    changed, gone = "patient003", "patient004"
    info = root / changed / "Info.cfg"
    cine = root / changed / f"{changed}_4d.nii.gz"
    cine.write_bytes((root / "patient005" / "patient005_4d.nii.gz").read_bytes())
    info.write_text((root / "patient005" / "Info.cfg").read_text())
    shutil.rmtree(root / gone)
    # A scan that has not changed is not opened again: here it could not be.
    untouched = root / "patient006" / "patient006_4d.nii.gz"
    info = untouched.stat()
    untouched.write_bytes(b"\0" * info.st_size)
    os.utime(untouched, ns=(info.st_atime_ns, info.st_mtime_ns))

    second = prepare_study(each, str(root), out)
    assert second.problems == ()
    places = row_locations(second)
    assert set(places) == {*rows, "zoe"} - {gone}
    for name in set(rows) - {gone, changed}:
        np.testing.assert_array_equal(read_subject(second, name)["frames"], rows[name])
    np.testing.assert_array_equal(read_subject(second, changed)["frames"], rows["patient005"])
    present = {f"parts/{entry.path}" for entry in Storage(out + "/parts").entries()}
    assert present == {place.shard for place in places.values()}, "unused shards are gone"
    moved = {name for name in rows if name != gone and _split(first, name) != _split(second, name)}
    assert moved == set()


def _split(study: Study, name: str) -> str:
    return next(split for split in SPLITS if name in study.subjects[split])


def test_the_summary_of_a_shard_stays_true(tmp_path: Path, settings: Settings) -> None:
    """Also when a preparation that mends it is cut short: the study before it can still be read."""
    root, out = tmp_path / "study", str(tmp_path / "shards")
    for name in ("a", "b", "c"):
        write_cine(root, f"patient-{name}", np.random.default_rng(ord(name)).random((10, 9, 4, 8)))
    damaged = root / "patient-a" / "patient-a_4d.nii.gz"
    whole = damaged.read_bytes()
    info = damaged.stat()

    def make(content: bytes) -> dict[str, Any]:
        damaged.write_bytes(content.ljust(len(whole), b"\0"))
        os.utime(damaged, ns=(info.st_atime_ns, info.st_mtime_ns))  # as when only its permissions were mended
        subjects = find_subjects(str(root), settings.data).subjects
        (shard,) = plan_shards(subjects, settings.data, {}, Storage(out).files("parts"))
        return make_shard(shard, str(root), out, settings.data)

    before, again, after = make(whole[:1000]), make(whole[:1000]), make(whole)
    assert before == again
    assert [len(summary["rows"]) for summary in (before, after)] == [2, 3]
    for summary in (before, after):
        for place, fact in enumerate(summary["rows"]):
            row = read_row(out, RowLocation(summary["part"], place)).to_pylist()[0]
            assert (row["subject"], row["checksum"]) == (fact["subject"], fact["checksum"])
