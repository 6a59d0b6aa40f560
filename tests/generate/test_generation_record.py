from pathlib import Path
from typing import Any

import pytest

from sadm_ray.errors import DataError
from sadm_ray.generate.generation_record import read_predictions, read_record, recorded, remove, write_record
from sadm_ray.storage import Storage


def frame(subject: str, task: str, *paths: str) -> dict[str, Any]:
    files = [{"path": path, "estimate": "sample", "bytes": 1, "sha256": ""} for path in paths]
    nothing = {"frame": 0, "time": 0.0, "observed": [], "samples": None, "shape": None, "error": ""}
    return {"subject": subject, "task": task, "files": files, **nothing}


def test_what_a_record_names_is_removed_with_it(tmp_path: Path) -> None:
    out = Storage(str(tmp_path))
    written = ("sub-a/ses-1/anat/x.json", "sub-a/anat/x.json", "visits/sub-a/x.json")  # the last by an earlier version
    for path in (*written, "sub-a/anat/notes.txt"):
        out.write(path, b"x")
    write_record(out, "a", "key", [frame("a", "visits", *written)])
    assert recorded(out) == {"a"}
    remove(out, "a")
    assert [entry.path for entry in out.entries()] == ["sub-a/anat/notes.txt"]
    assert not (tmp_path / "visits").exists()
    assert not (tmp_path / "sub-a" / "ses-1").exists()


@pytest.mark.parametrize(
    "path",
    [
        *("../kept", "{}/kept", "visits/sub-a/../../../kept", "s3://bucket/x", "request.json", "visits/sub-b/x.json"),
        *("visits/sub-a", "visits/sub-a/", "visits/sub-a/..", "visits/sub-a/b/x.json", "./sub-a/x"),
        *("sub-b/ses-1/anat/x.json", "sub-a/../anat/x.json", "sub-a/ses-1/anat/..", "sub-a/ses-1/func/x.json"),
        *("sub-a/ses-1/ses-2/anat/x.json", "sub-a/anat/../../kept"),
    ],
)
def test_a_record_that_names_something_else_is_refused_and_stays(tmp_path: Path, path: str) -> None:
    out = Storage(str(tmp_path / "out"))
    (tmp_path / "kept").write_text("mine")
    write_record(out, "a", "key", [frame("a", "visits", "visits/sub-a/x.json", path.format(tmp_path))])
    for verb in (read_record, remove):
        with pytest.raises(DataError, match=r"predictions/a\.parquet: names '.*', which is no file of this subject"):
            verb(out, "a")
    assert (tmp_path / "kept").read_text() == "mine"
    assert recorded(out) == {"a"}


@pytest.mark.parametrize(("subject", "task"), [("../a", "visits"), ("a", "../../visits"), ("a", "/visits")])
def test_predictions_whose_names_lead_out_are_refused(tmp_path: Path, subject: str, task: str) -> None:
    out = Storage(str(tmp_path))
    write_record(out, "a", "key", [frame(subject, task)])
    with pytest.raises(DataError, match=r"predictions/a\.parquet: '.*' cannot be a (subject|task)'s name"):
        read_predictions(out.where("predictions/a.parquet"))
    assert read_predictions(out.where("predictions/a.parquet"), columns=["frame"]).num_rows == 1
