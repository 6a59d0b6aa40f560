"""Names in the files of a prepared study that lead out of it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sadm_ray.config import DataSettings
from sadm_ray.data.find import Scan, Subject
from sadm_ray.data.shards.prepared_study import (
    STUDY_FILE,
    Study,
    read_row,
    read_slots,
    read_study,
    read_subject,
    row_locations,
)
from sadm_ray.data.shards.shard_writer import read_summary, to_parquet
from sadm_ray.data.shards.subject_row import had_other_times, row_key
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage
from tests.data.studies import made_row, write_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    rows = [made_row(name, np.full((2, 2, 4, 4), value)) for name, value in (("a", 0.25), ("b", 0.5))]
    return write_study(tmp_path / "shards", rows, {"train": ["a", "b"]})


def change(study: Study, **values: object) -> None:
    file = Path(study.location) / STUDY_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("name", ["../b", "/b", "", "a/b"])
def test_a_subject_whose_name_leads_out_is_refused(study: Study, name: str) -> None:
    change(study, subjects={"train": ["a", name]})
    with pytest.raises(DataError, match=rf"{STUDY_FILE}: '{name}' cannot be a subject's name; run `sadm-ray prepare`"):
        read_study(study.location)


@pytest.mark.parametrize("places", ["../elsewhere.parquet", "/elsewhere.parquet", "s3://bucket/x.parquet"])
def test_a_table_elsewhere_is_refused(study: Study, places: str) -> None:
    change(study, places=places)
    with pytest.raises(DataError, match=rf"{STUDY_FILE}: names '{places}', which does not lie in {study.location}"):
        read_study(study.location)


def test_a_shard_elsewhere_is_refused(study: Study, tmp_path: Path) -> None:
    table = Path(study.location) / study.places
    rows = pq.read_table(table).to_pylist()
    (tmp_path / "other.parquet").write_bytes((Path(study.location) / rows[0]["part"]).read_bytes())
    pq.write_table(pa.Table.from_pylist([{**row, "part": "../other.parquet"} for row in rows]), table)
    for read in (lambda: read_subject(study, "a"), lambda: read_slots(study, ["a"])):
        with pytest.raises(DataError, match=rf"{study.places}: names '../other\.parquet', which does not lie in"):
            read()


def test_a_summary_counts_for_its_own_file_only(study: Study) -> None:
    storage = Storage(study.location)
    for part, is_own in (("parts/new.parquet", True), ("../../outside.parquet", False), ("parts/0.parquet", False)):
        storage.write("parts/new.parquet", to_parquet([], {"part": part, "rows": [], "problems": []}))
        assert (read_summary(storage, "parts/new.parquet") is not None) == is_own


def test_shards_with_float32_times_are_read_as_others(study: Study) -> None:
    """As earlier versions wrote them, also beside new ones."""
    part = Path(study.location) / "parts" / "0.parquet"
    old = pq.read_table(part)
    times = pa.array([[70.2, 71.5]], pa.list_(pa.float32()))
    old = old.set_column(old.schema.get_field_index("times"), "times", times)
    pq.write_table(old, part, row_group_size=1)
    assert old.schema.field("times").type == pa.list_(pa.float32())
    (name,) = old["subject"].to_pylist()
    for found in (read_subject(study, name)["times"], read_slots(study, [name])[name].times):
        assert found.dtype == np.float64
        assert found.tolist() == np.array([70.2, 71.5], np.float32).tolist()
    rows = [read_row(study.location, place) for place in row_locations(study).values()]
    assert pa.concat_tables(rows).num_rows == 2


def test_times_that_float32_would_merge(tmp_path: Path) -> None:
    times = (20190131.0, 20190132.0)
    study = write_study(tmp_path, [made_row("a", np.zeros((2, 2, 4, 4)), times=times)], {"train": ["a"]})
    assert read_subject(study, "a")["times"].tolist() == list(times)
    assert read_slots(study, ["a"])["a"].times.tolist() == list(times)


def test_rows_whose_times_were_rounded_are_made_again() -> None:
    exact = Subject("a", (Scan("x.nii", "1", 70.5), Scan("y.nii", "2", 71.0)))
    rounded = Subject("a", (Scan("x.nii", "1", 70.2), Scan("y.nii", "2", 71.0)))
    header, cine = Subject("a", (Scan("x.nii", "", None),)), Subject("a", (Scan("x.nii", "", None),), cycle=(1, 5))
    assert [had_other_times(each) for each in (exact, cine, rounded, header)] == [False, False, True, True]
    assert len({row_key(each, DataSettings()) for each in (exact, rounded, header, cine)}) == 4


def test_slots_are_those_of_the_rows(study: Study) -> None:
    slots = read_slots(study, ["b", "a", "nobody"])
    assert set(slots) == {"a", "b"}
    np.testing.assert_array_equal(slots["b"].times, read_subject(study, "b")["times"])
    assert slots["a"].present.tolist() == [True, True]
