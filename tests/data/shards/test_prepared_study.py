"""Names in the files of a prepared study that lead out of it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sadm_ray.data.shards.prepared_study import STUDY_FILE, Study, read_slots, read_study, read_subject
from sadm_ray.data.shards.shard_writer import read_summary, to_parquet
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


def test_slots_are_those_of_the_rows(study: Study) -> None:
    slots = read_slots(study, ["b", "a", "nobody"])
    assert set(slots) == {"a", "b"}
    np.testing.assert_array_equal(slots["b"].times, read_subject(study, "b")["times"])
    assert slots["a"].present.tolist() == [True, True]
