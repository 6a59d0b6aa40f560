from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sadm_ray.config import Settings
from sadm_ray.config_file import load_settings
from sadm_ray.data.catalog import Subject, find_subjects
from sadm_ray.data.rows import prepare_subject
from sadm_ray.data.shards import (
    SPLITS,
    Study,
    data_digest,
    prepare_study,
    read_shards,
    read_study,
    read_subject,
    split_subjects,
)
from sadm_ray.errors import DataError
from tests.data.patients import write_cine, write_single_frames

SHAPE = (4, 16, 16)
SLOTS = 6


@pytest.fixture(scope="session")
def settings() -> Settings:
    task = "{name: last, observed: [0], targets: [-1]}"
    return load_settings(None, [f"data.shape={list(SHAPE)}", f"data.frames={SLOTS}", f"generate.tasks=[{task}]"])


@pytest.fixture(scope="session")
def prepared(
    settings: Settings, phantom_study: Path, tmp_path_factory: pytest.TempPathFactory, ray_local: None
) -> tuple[Study, Path]:
    out = tmp_path_factory.mktemp("study") / "shards with #1 space"
    return prepare_study(settings, phantom_study, out), out


def named(groups: dict[str, int]) -> list[Subject]:
    return [
        Subject(f"{group}{number:03d}", group, (), (), (1.0, 1.0, 1.0))
        for group, size in groups.items()
        for number in range(size)
    ]


def test_splits_have_their_shares_of_every_group() -> None:
    subjects = named({"DCM": 12, "HCM": 12, "MINF": 12, "NOR": 12, "RV": 12})
    split_of = split_subjects(subjects, val=0.1, test=0.2, seed=0)
    assert {split: list(split_of.values()).count(split) for split in SPLITS} == {"train": 42, "val": 6, "test": 12}
    for group in ("DCM", "HCM", "MINF", "NOR", "RV"):
        assert 2 <= sum(split == "test" and name.startswith(group) for name, split in split_of.items()) <= 3
    assert split_of == split_subjects(subjects[::-1], val=0.1, test=0.2, seed=0), "the order on disk is no matter"
    assert split_of != split_subjects(subjects, val=0.1, test=0.2, seed=1)


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (10, (7, 1, 2))])
def test_small_studies_leave_somebody_to_train_on(count: int, expected: tuple[int, ...]) -> None:
    split_of = split_subjects(named({"": count}), val=0.1, test=0.15, seed=0)
    assert tuple(list(split_of.values()).count(split) for split in SPLITS) == expected


def test_no_share_no_subjects() -> None:
    assert set(split_subjects(named({"": 9}), val=0.0, test=0.0, seed=0).values()) == {"train"}


@pytest.mark.ray
def test_no_subject_is_in_two_splits(prepared: tuple[Study, Path]) -> None:
    study, out = prepared
    names = [name for split in SPLITS for name in study.subjects[split]]
    assert sorted(names) == sorted(set(names))
    assert len(names) == 12
    assert all(study.subjects[split] for split in SPLITS)
    for split in SPLITS:
        assert sorted(row["subject"] for row in read_shards(out, split, ["subject"]).take_all()) == list(
            study.subjects[split]
        )


@pytest.mark.ray
def test_shards_hold_what_was_prepared(prepared: tuple[Study, Path], phantom_study: Path) -> None:
    study, out = prepared
    subjects = {subject.name: subject for subject in find_subjects(phantom_study).subjects}
    batch = read_shards(out, "train").take_batch(100, batch_format="numpy")
    count = len(study.subjects["train"])
    assert (batch["frames"].dtype, batch["frames"].shape) == (np.float16, (count, SLOTS, 1, *SHAPE))
    assert (batch["present"].dtype, batch["present"].shape) == (np.bool_, (count, SLOTS))
    assert (batch["times"].dtype, batch["times"].shape) == (np.float32, (count, SLOTS))
    assert (batch["affine"].dtype, batch["affine"].shape) == (np.float64, (count, 4, 4))
    assert "split" not in batch
    for index, name in enumerate(batch["subject"]):
        row = prepare_subject(subjects[name], SHAPE, SLOTS)
        for column, value in row.items():
            np.testing.assert_array_equal(batch[column][index], value)
        assert row["frames"].min() == 0
        assert row["frames"].max() == 1


@pytest.mark.ray
def test_one_subject_without_ray_data(prepared: tuple[Study, Path], phantom_study: Path) -> None:
    study, out = prepared
    name = study.subjects["test"][0]
    row = read_subject(out, "test", name)
    subject = next(subject for subject in find_subjects(phantom_study).subjects if subject.name == name)
    for column, value in prepare_subject(subject, SHAPE, SLOTS).items():
        if column != "source":
            np.testing.assert_array_equal(row[column], value)
    assert row["frames"].dtype == np.float16
    assert row["source"][0] == {"file": str(subject.frames[0].path), "frame": subject.frames[0].index}
    with pytest.raises(DataError, match="no subject"):
        read_subject(out, "train", name)


@pytest.mark.ray
def test_the_study_is_told_beside_the_shards(prepared: tuple[Study, Path], settings: Settings) -> None:
    study, out = prepared
    assert read_study(out) == study
    assert (study.shape, study.frames, study.problems) == (SHAPE, SLOTS, ())
    assert study.digest == data_digest(settings)
    assert not (out / "problems").exists()


@pytest.mark.ray
def test_the_difference_scale_is_the_rms_over_pairs_of_training_frames(prepared: tuple[Study, Path]) -> None:
    study, out = prepared
    frames = [read_subject(out, "train", name)["frames"].astype(np.float64) for name in study.subjects["train"]]
    squares = [np.square(scan[j] - scan[i]).mean() for scan in frames for j in range(SLOTS) for i in range(j)]
    assert study.difference_scale == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-3)


@pytest.mark.ray
def test_bad_subjects_are_told_and_good_ones_kept(tmp_path: Path, settings: Settings, ray_local: None) -> None:
    root, out = tmp_path / "study", tmp_path / "shards"
    for number in range(1, 5):
        write_cine(root, f"patient00{number}")
    frame = np.random.default_rng(0).random((10, 9, 4))
    write_single_frames(root, "patient005", {1: frame, 9: frame + np.linspace(0, 1, 4)}, ed=1, es=9)
    truncated = write_cine(root, "patient010")
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    rng = np.random.default_rng(1)
    voxels = rng.random((10, 9, 4, 8)).astype(np.float32)
    voxels[3, 3, 1, 2] = np.nan
    write_cine(root, "patient011", voxels)
    write_cine(root, "patient012", np.full((10, 9, 4, 8), 7, np.int16))
    write_cine(root, "patient013", es=20)
    (write_cine(root, "patient014").parent / "Info.cfg").unlink()
    write_cine(root / "training", "patient015")
    write_cine(root / "testing", "patient015")

    study = prepare_study(settings, root, out)

    kept = sorted(name for split in SPLITS for name in study.subjects[split])
    assert kept == [f"patient00{number}" for number in range(1, 6)]
    for name, told in {
        "patient010": "breaks off before its end",
        "patient011": "NaN or infinite voxels in frame 3",
        "patient012": "same value",
        "patient013": "ES is frame 20",
        "patient014": "Info.cfg: cannot be read",
        "patient015": "rename",
    }.items():
        lines = [line for line in study.problems if line.startswith(name)]
        assert lines, name
        assert all(told in line and "\n" not in line for line in lines)
    assert len(study.problems) == 7
    split = next(split for split in SPLITS if "patient005" in study.subjects[split])
    row = read_subject(out, split, "patient005")
    np.testing.assert_array_equal(row["present"], [True, False, False, False, False, True])
    assert not row["frames"][1:-1].any()
    assert row["source"][1] is None


@pytest.mark.ray
def test_nobody_left(tmp_path: Path, settings: Settings, ray_local: None) -> None:
    for number in range(3):
        write_cine(tmp_path / "study", f"patient00{number}", np.zeros((4, 4, 4, 8), np.int16))
    with pytest.raises(DataError, match="no subject is left") as caught:
        prepare_study(settings, tmp_path / "study", tmp_path / "shards")
    assert len(caught.value.problems) == 3
    with pytest.raises(DataError, match="no prepared study"):
        read_study(tmp_path / "shards")


def test_all_subjects_bad_is_known_before_ray_is_needed(tmp_path: Path, settings: Settings) -> None:
    write_cine(tmp_path / "study", "patient001", es=99)
    with pytest.raises(DataError, match="none of its subjects") as caught:
        prepare_study(settings, tmp_path / "study", tmp_path / "shards")
    assert len(caught.value.problems) == 1


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sadm-ray prepare"):
        read_study(tmp_path)
    (tmp_path / "_study.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(DataError, match="another version"):
        read_study(tmp_path)


def test_the_digest_follows_what_decides_the_shards(settings: Settings) -> None:
    def digest(*overrides: str) -> str:
        return data_digest(load_settings(None, overrides))

    assert digest() == digest("train.steps=7", "run.name=other")
    changed = [digest("seed=1"), digest("data.frames=9"), digest("phantom.noise=0.1"), digest("data.root=/study")]
    assert len({digest(), *changed}) == 5
    assert digest("data.root=/study") == digest("data.root=/study", "phantom.noise=0.1")


@pytest.mark.real_data
def test_real_patients(real_data: Path) -> None:
    cines = {subject.name: subject for subject in find_subjects(real_data / "acdc").subjects}
    for name in ("patient001", "patient009", "patient090"):
        row = prepare_subject(cines[name], (8, 64, 64), 8)
        assert row["present"].all()
        assert row["times"][0] == 0
        assert row["times"][-1] == 1
        assert tuple(row["source_shape"][1:]) == (95, 100)
        copied = -10 * np.log10(np.square(row["frames"][-1].astype(float) - row["frames"][0]).mean())
        assert 12 < copied < 35
    native = find_subjects(real_data / "acdc_native_edes").subjects[0]
    row = prepare_subject(native, (8, 64, 64), 8)
    np.testing.assert_array_equal(np.flatnonzero(row["present"]), [0, 7])
    assert tuple(row["source_shape"]) == (11, 256, 232)
