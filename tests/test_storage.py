from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from sadm_ray.errors import DataError
from sadm_ray.storage import Storage


def test_listed_entries(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "scan.nii").write_bytes(b"12345")
    (tmp_path / "a" / "b" / ".hidden").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").touch()
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "folder.nii.gz" / "inside").touch()
    (tmp_path / "nowhere.nii").symlink_to(tmp_path / "gone.nii")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "link.nii").symlink_to(tmp_path / "a" / "scan.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    found = {entry.path: entry.size for entry in Storage(str(tmp_path)).entries()}
    assert found == {"a/scan.nii": 5, "link.nii": 5, "folder.nii.gz": 0, "nowhere.nii": 0, "pipe.nii": 0}


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder; set data\.root"):
        Storage(str(tmp_path / "no")).entries()
    with pytest.raises(DataError, match="no way to open"):
        Storage("nonsense://bucket/x").entries()


def test_files_are_whole_or_absent(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("deep/er/file.gz", b"one")
    storage.write("deep/er/file.gz", b"two")
    assert storage.read("deep/er/file.gz") == b"two", "a .gz is not unpacked"
    assert [file.name for file in (tmp_path / "deep" / "er").iterdir()] == ["file.gz"]
    (tmp_path / "deep" / "er" / ".file.gz.0a1b2c3d").touch()  # what a killed writer leaves
    storage.write("deep/er/other", b"three")
    storage.keep_only("deep/er", {"deep/er/other"})
    assert [file.name for file in (tmp_path / "deep" / "er").iterdir()] == ["other"]
    storage.delete("deep/er/other")
    storage.delete("deep/er/other")
    assert storage.entries() == []


def test_absolute_paths_and_urls_stand_for_themselves_where_scans_are_scattered(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    elsewhere = Storage(str(tmp_path / "elsewhere"), scattered=True)
    assert elsewhere.read(str(tmp_path / "file")) == b"x"
    assert elsewhere.read(f"file://{tmp_path}/file") == b"x"
    assert elsewhere.where("s3://bucket/x") == "s3://bucket/x"
    assert Storage("s3://bucket/").where("x") == "s3://bucket/x"
    assert elsewhere.entry("file") is None
    assert elsewhere.entry(str(tmp_path / "file")) is not None
    with pytest.raises(DataError, match="does not lie in this folder"):
        elsewhere.read("../file")


def verbs(storage: Storage, path: str) -> list[Callable[[], object]]:
    return [
        partial(storage.entry, path),
        partial(storage.open, path),
        partial(storage.open_random, path),
        partial(storage.read, path),
        partial(storage.write, path, b"bad"),
        partial(storage.delete, path),
        partial(storage.files, path),
        partial(storage.folders, path),
        partial(storage.remove_folder, path),
        partial(storage.keep_only, path, ()),
    ]


@pytest.mark.parametrize("below", ["here", "memory"])
@pytest.mark.parametrize(
    "path", ["../kept/file", "a/../../kept/file", "{}/kept/file", "file://{}/kept/file", "..", "C:/x"]
)
def test_no_path_leads_out_of_a_folder(tmp_path: Path, below: str, path: str) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(b"mine")
    storage = Storage(str(tmp_path / "here") if below == "here" else "memory://bucket/here")
    for verb in verbs(storage, path.format(tmp_path)):
        with pytest.raises(DataError, match="does not lie in this folder"):
            verb()
    assert (tmp_path / "kept" / "file").read_bytes() == b"mine"
    with pytest.raises(DataError, match=r"list\.json: names '.*', which does not lie in .*here; make it again"):
        storage.require_inside(path.format(tmp_path), "list.json", "make it again")
    storage.require_inside("a/..b/c..d", "list.json", "")


def test_nothing_is_removed_behind_a_link(tmp_path: Path) -> None:
    kept, storage = tmp_path / "kept", Storage(str(tmp_path / "here"))
    kept.mkdir()
    (kept / "file").write_bytes(b"mine")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(kept)
    (tmp_path / "here" / "file").symlink_to(kept / "file")
    with pytest.raises(DataError, match="behind a link"):
        storage.delete("link/file")
    assert storage.read("link/file") == b"mine", "a link may be read through"
    storage.delete("file")
    storage.remove_folder("link")
    assert list((tmp_path / "here").iterdir()) == []
    assert (kept / "file").read_bytes() == b"mine"


def test_any_kind_of_url_that_fsspec_knows() -> None:
    storage = Storage("memory://bucket/study")
    storage.write("a/b.txt", b"hello")
    assert storage.read("a/b.txt") == b"hello"
    assert [entry.path for entry in storage.entries()] == ["a/b.txt"]
    storage.delete("a/b.txt")
    assert storage.entry("a/b.txt") is None


@pytest.mark.parametrize("name", ["a #b", "50%20", "a?b&c=d", "[x] *", "ü 日本", "a:b;c@d", "~", "$HOME", 'it\'s "x"'])
def test_a_folder_may_be_called_anything(tmp_path: Path, name: str) -> None:
    storage = Storage(str(tmp_path / name))
    table = pa.table({"x": [1]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write(f"{name}/{name}.parquet", sink.getvalue())
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet")] == [
        f"{name}/{name}/{name}.parquet"
    ]
    assert [entry.path for entry in storage.entries()] == storage.files(name) == [f"{name}/{name}.parquet"]
    system, folder = storage.resolved
    assert pq.read_table(f"{folder}/{name}/{name}.parquet", filesystem=system) == table
    # Ray Train and Ray Tune are given the path alone, and ask pyarrow what it is.
    assert fs.FileSystem.from_uri(folder) == (system, str(tmp_path / name))
    storage.delete(f"{name}/{name}.parquet")
    storage.remove_folder(name)
    assert list((tmp_path / name).iterdir()) == []
