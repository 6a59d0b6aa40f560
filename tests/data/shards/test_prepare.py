"""Preparation: what is in the shards, that nothing is done twice, and that nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from sadm_ray.config import Settings
from sadm_ray.config.settings_file import load_settings
from sadm_ray.data.find import find_subjects
from sadm_ray.data.find.catalog import SPLITS
from sadm_ray.data.load.collate import collate
from sadm_ray.data.normalise.intensity import denormalise
from sadm_ray.data.normalise.spatial import SpatialTransform
from sadm_ray.data.shards.prepare import prepare_study
from sadm_ray.data.shards.prepared_study import (
    Study,
    data_digest,
    read_study,
    read_subject,
    row_locations,
    rows_of,
)
from sadm_ray.data.shards.subject_row import ROW_SCHEMA, parse_row, prepare_subject
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage
from tests.data.patients import write_cine, write_single_frames

SHAPE = (4, 16, 16)
SLOTS = 6


def settings_with(*overrides: str) -> Settings:
    task = "{name: last, observed: [0], targets: [-1]}"
    return load_settings(
        None,
        [
            f"data.shape={list(SHAPE)}",
            f"data.frames={SLOTS}",
            "data.split.method=balanced",
            f"generate.tasks=[{task}]",
            *overrides,
        ],
    )


@pytest.fixture(scope="session")
def settings() -> Settings:
    return settings_with()


@pytest.fixture(scope="session")
def prepared(
    settings: Settings, phantom_study: Path, tmp_path_factory: pytest.TempPathFactory, ray_local: None
) -> Study:
    out = tmp_path_factory.mktemp("study") / "shards with #1 space"
    return prepare_study(settings, str(phantom_study), str(out))


def files_of(study: Study) -> dict[str, tuple[int, bytes]]:
    """Every file of a study: when it was written and what is in it."""
    return {
        entry.path: (entry.modified, Storage(study.location).read(entry.path))
        for entry in Storage(study.location).entries()
    }


@pytest.mark.ray
def test_no_subject_is_in_two_splits(prepared: Study) -> None:
    names = [name for split in SPLITS for name in prepared.subjects[split]]
    assert len(names) == len(set(names)) == 12
    for split in SPLITS:
        rows = rows_of(prepared, prepared.names(split)).take_all()
        assert [row["subject"] for row in rows] == list(prepared.names(split))


@pytest.mark.ray
def test_shards_hold_what_was_prepared(prepared: Study, phantom_study: Path, settings: Settings) -> None:
    subjects = {subject.name: subject for subject in find_subjects(str(phantom_study), settings.data).subjects}
    for stored in rows_of(prepared, prepared.names("train")).take_all():
        row = parse_row(stored)
        direct = prepare_subject(subjects[row["subject"]], Storage(str(phantom_study)), settings.data)
        assert direct.problems == ()
        assert direct.row is not None
        assert stored["checksum"] == direct.row["checksum"]
        for key, value in parse_row(direct.row).items():
            np.testing.assert_array_equal(row[key], value)
            np.testing.assert_array_equal(read_subject(prepared, row["subject"])[key], value)
        assert row["frames"].shape == (SLOTS, 1, *SHAPE)
        assert (row["frames"][0].min(), row["frames"][0].max()) == (0, 1), "the first scan sets the range"
        assert json.loads(row["sources"])[0]["file"] == subjects[row["subject"]].scans[0].file
    with pytest.raises(DataError, match="no subject 'unknown'"):
        read_subject(prepared, "unknown")


@pytest.mark.ray
def test_the_study_is_described_beside_the_shards(prepared: Study, settings: Settings) -> None:
    assert read_study(prepared.location) == prepared
    assert (prepared.shape, prepared.frames, prepared.problems) == (SHAPE, SLOTS, ())
    assert prepared.digest == data_digest(settings)


@pytest.mark.ray
def test_the_difference_scale_is_the_rms_over_pairs_of_training_frames(prepared: Study) -> None:
    frames = [read_subject(prepared, name)["frames"].astype(np.float64) for name in prepared.names("train")]
    squares = [np.square(scan[j] - scan[i]).mean() for scan in frames for j in range(SLOTS) for i in range(j)]
    assert prepared.difference_scale == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-6)


@pytest.mark.ray
def test_doing_it_again_does_nothing(prepared: Study, phantom_study: Path, settings: Settings) -> None:
    before = files_of(prepared)
    assert prepare_study(settings, str(phantom_study), prepared.location) == prepared
    after = files_of(prepared)
    assert {path: content for path, (_, content) in after.items()} == {
        path: content for path, (_, content) in before.items()
    }
    assert all(after[path][0] == before[path][0] for path in before if path.startswith("parts/"))


@pytest.mark.ray
def test_bad_subjects_are_reported_and_good_ones_kept(tmp_path: Path, settings: Settings, ray_local: None) -> None:
    root, out = tmp_path / "study", str(tmp_path / "shards")
    for number in range(1, 5):
        write_cine(root, f"patient00{number}")
    frame = np.random.default_rng(0).random((10, 9, 4))
    write_single_frames(root, "patient005", {1: frame, 9: frame + np.linspace(0, 1, 4)}, ed=1, es=9)
    truncated = write_cine(root, "patient010")
    whole = truncated.read_bytes()
    truncated.write_bytes(whole[: len(whole) // 2])
    rng = np.random.default_rng(1)
    voxels = rng.random((10, 9, 4, 8)).astype(np.float32)
    voxels[3, 3, 1, 2] = np.nan
    write_cine(root, "patient011", voxels)
    write_cine(root, "patient012", np.full((10, 9, 4, 8), 7, np.int16))
    write_cine(root, "patient013", es=20)
    (write_cine(root, "patient014").parent / "Info.cfg").unlink()
    write_cine(root / "training", "patient015")
    write_cine(root / "testing", "patient015")

    study = prepare_study(settings, str(root), out)

    assert sorted(row_locations(study)) == [f"patient00{number}" for number in range(1, 6)]
    for name in ("patient010", "patient011", "patient012", "patient013", "patient014", "patient015"):
        lines = [line for line in study.problems if line.startswith(f"{name}: {root}")]
        assert lines, (name, study.problems)
        assert all("\n" not in line for line in lines)
    row = read_subject(study, "patient005")
    np.testing.assert_array_equal(row["present"], [True, False, False, False, False, True])
    assert not row["frames"][1:-1].any()
    assert json.loads(row["sources"])[1] is None

    # Mended, it is prepared; the problems of the others are reported again, though the good ones were not read.
    truncated.write_bytes(whole)
    again = prepare_study(settings, str(root), out)
    assert "patient010" in row_locations(again)
    assert set(again.problems) == {line for line in study.problems if not line.startswith("patient010")}


@pytest.mark.ray
def test_no_usable_subject_is_left(tmp_path: Path, settings: Settings, ray_local: None) -> None:
    for number in range(3):
        write_cine(tmp_path / "study", f"patient00{number}", np.zeros((4, 4, 4, 8), np.int16))
    with pytest.raises(DataError, match="none of its subjects") as caught:
        prepare_study(settings, str(tmp_path / "study"), str(tmp_path / "shards"))
    assert len(caught.value.problems) >= 3
    with pytest.raises(DataError, match="no prepared study"):
        read_study(str(tmp_path / "shards"))


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sadm-ray prepare"):
        read_study(str(tmp_path))
    (tmp_path / "_study.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(DataError, match="another version"):
        read_study(str(tmp_path))


@pytest.mark.ray
def test_a_damaged_shard_is_named(tmp_path: Path, phantom_study: Path, settings: Settings, ray_local: None) -> None:
    out = str(tmp_path / "shards")
    study = prepare_study(settings, str(phantom_study), out)
    name, place = next(iter(row_locations(study).items()))
    file = Path(out, place.shard)
    content = bytearray(file.read_bytes())
    frames = pq.read_metadata(file).row_group(place.row).column(ROW_SCHEMA.names.index("frames"))
    content[frames.data_page_offset + frames.total_compressed_size // 2] ^= 4
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match="damaged") as caught:
        read_subject(study, name)
    assert place.shard in str(caught.value)
    file.unlink()  # the mend that it names
    prepare_study(settings, str(phantom_study), out)
    assert read_subject(study, name)["subject"] == name


@pytest.mark.ray
def test_all_visits_are_kept_when_frames_is_none(tmp_path: Path, phantom_study: Path, ray_local: None) -> None:
    study = prepare_study(settings_with("data.frames=null", "data.dtype=uint8"), str(phantom_study), str(tmp_path))
    rows = [read_subject(study, name) for name in row_locations(study)]
    lengths = {len(row["present"]) for row in rows}
    assert len(lengths) > 1
    assert all(row["present"].all() for row in rows)
    batch = collate(rows)
    assert batch.frames.shape[:2] == (12, max(lengths))


def test_the_digest_follows_what_decides_the_shards() -> None:
    def digest(*overrides: str) -> str:
        return data_digest(load_settings(None, overrides))

    assert digest() == digest("train.steps=7", "run.name=other", "data.shards=/elsewhere")
    changed = [digest("seed=1"), digest("data.frames=9"), digest("phantom.noise=0.1"), digest("data.root=/study")]
    assert len({digest(), *changed}) == 5
    assert digest("data.root=/study") == digest("data.root=/study", "phantom.noise=0.1")


@pytest.mark.real_data
def test_real_patients(real_data: Path) -> None:
    data = settings_with("data.shape=[8,64,64]", "data.frames=8").data
    root = Storage(str(real_data / "acdc"))
    cines = {subject.name: subject for subject in find_subjects(root.location, data).subjects}
    for name in ("patient001", "patient009", "patient090"):
        stored = prepare_subject(cines[name], root, data).row
        assert stored is not None
        row = parse_row(stored)
        assert row["present"].all()
        assert (row["times"][0], row["times"][-1]) == (0, 1)
        assert SpatialTransform.from_json(row["grid"]).source_shape[1:] == (95, 100)
        copied = -10 * np.log10(np.square(row["frames"][-1] - row["frames"][0]).mean())
        assert 12 < copied < 35
    root = Storage(str(real_data / "acdc_native_edes"))
    native = find_subjects(root.location, data).subjects[0]
    stored = prepare_subject(native, root, data).row
    assert stored is not None
    row = parse_row(stored)
    np.testing.assert_array_equal(np.flatnonzero(row["present"]), [0, 7])
    transform = SpatialTransform.from_json(row["grid"])
    restored = denormalise(transform.inverse(row["frames"][0, 0], outside=0.0), tuple(row["intensity"]))
    assert restored.shape == transform.source_shape == nib.load(root.where(native.scans[0].file)).shape[::-1]
