from __future__ import annotations

import os
from pathlib import Path

import pytest

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


def test_absolute_paths_and_urls_stand_for_themselves(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    elsewhere = Storage(str(tmp_path / "elsewhere"))
    assert elsewhere.read(str(tmp_path / "file")) == b"x"
    assert elsewhere.read(f"file://{tmp_path}/file") == b"x"
    assert elsewhere.where("s3://bucket/x") == "s3://bucket/x"
    assert Storage("s3://bucket/").where("x") == "s3://bucket/x"
    assert elsewhere.entry("file") is None
    assert elsewhere.entry(str(tmp_path / "file")) is not None


def test_any_kind_of_url_that_fsspec_knows() -> None:
    storage = Storage("memory://bucket/study")
    storage.write("a/b.txt", b"hello")
    assert storage.read("a/b.txt") == b"hello"
    assert [entry.path for entry in storage.entries()] == ["a/b.txt"]
    storage.delete("a/b.txt")
    assert storage.entry("a/b.txt") is None
