"""By what a person is recognised: scans, the name and the group in a study, however its place is spelled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sadm_ray.data.shards.fingerprints import fingerprints, has_scans, split_digest
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.data.shards.subject_row import scan_digests
from sadm_ray.model.seen_subjects import SeenSubjects
from tests.data.studies import made_row, write_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    frames = np.random.default_rng(0).uniform(size=(2, 2, 2, 4, 4)).astype(np.float16)
    rows = [made_row("anna", frames[0]), made_row("ben", frames[1])]
    return write_study(tmp_path / "shards", rows, {"train": ("anna",), "val": (), "test": ("ben",)})


def at(study: Study, root: object) -> Study:
    return replace(study, settings={"root": str(root)})


def test_the_place_of_a_study_is_the_same_however_it_is_spelled(study: Study, tmp_path: Path) -> None:
    here = tmp_path / "scans"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    known = fingerprints(at(study, here))["anna"]
    assert known
    spelled = [f"{here}/", f"{tmp_path}/link", f"{here}/../scans", f"file://{here}", here / "v1.csv", here / "v2.tsv"]
    assert all(fingerprints(at(study, each))["anna"] == known for each in spelled)
    assert not fingerprints(at(study, tmp_path / "other"))["anna"] & known
    s3 = [fingerprints(at(study, each))["anna"] for each in ("s3://bucket/scans", "s3://bucket/scans/")]
    assert s3[0] == s3[1]
    assert not fingerprints(at(study, here), groups=False)["ben"] & known


def test_names_and_groups_alone_make_nobody_a_test_subject(study: Study) -> None:
    who = fingerprints(at(study, "/scans"))
    assert not has_scans(who["anna"])
    assert SeenSubjects.of([frozenset({"aa"})], []).seen_as(who["anna"]) == "unknown"
    assert not SeenSubjects.of([who["anna"]], []).complete


def test_those_of_one_group_are_one_person_where_the_study_was_split_so(study: Study) -> None:
    """`made_row` gives all the same group."""
    scanned = at(study, "/scans")
    both, alone = fingerprints(scanned), fingerprints(scanned, groups=False)
    assert len(both["anna"] & both["ben"]) == 1
    assert not alone["anna"] & alone["ben"]
    taught = SeenSubjects.of([both["anna"] | {"aa"}], [])
    assert taught.seen_as(both["ben"] | {"bb"}) == "train"
    assert SeenSubjects.of([alone["anna"] | {"aa"}], []).seen_as(both["ben"] | {"bb"}) == "test"


def test_who_trains_and_who_validates_is_told_apart(study: Study) -> None:
    other = replace(study, subjects={"train": ("ben",), "val": (), "test": ("anna",)})
    assert split_digest(study) != split_digest(other)
    turned = replace(study, subjects={"test": ("ben",), "train": ["anna"], "val": ()})
    assert split_digest(study) == split_digest(turned)


def test_a_frame_without_contrast_is_nobodys() -> None:
    empty = made_row("anna", np.zeros((2, 2, 4, 4), np.float16))
    assert scan_digests(empty) == []
    seen = np.zeros((2, 2, 4, 4), np.float16)
    seen[0, 0, 0, 0] = 1.0
    assert len(scan_digests(made_row("anna", seen))) == 1
