"""MLflow's sqlite file where it is locked, damaged or out of reach: one short line, at once, without SQL."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sadm_ray.tracking.log_record import LogRecord, TrackingStore
from sadm_ray.tracking.mlflow_client import first_line
from sadm_ray.tracking.mlflow_store import MlflowStore

RECORD = LogRecord("train", "metrics", {"values": {"loss": 1.0}, "step": 1})


def send(file: Path) -> None:
    place = TrackingStore(file.with_suffix(".run"), f"sqlite:///{file}", "experiment", "tiny")
    place.folder.mkdir(exist_ok=True)
    assert MlflowStore(place).send([RECORD], lambda: b"") == []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that MLflow has made."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    send(file)
    return file


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def scramble(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100:60_000] = b"\xff" * 59_900
    file.write_bytes(content)


def overwrite(file: Path) -> None:
    file.write_text("no database at all " * 100)


def make_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def drop_a_table(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("DROP TABLE metrics")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (truncate, "the file is damaged; move it away"),
        (scramble, "the file is damaged; move it away"),
        (overwrite, "the file is no database, or damaged; move it away"),
        (make_a_folder, "the file cannot be opened; look at its folder and its permissions"),
        (drop_a_table, "the file"),  # which table is missed first depends on what MLflow has in memory
    ],
)
def test_a_damaged_file_is_one_short_line(made: Path, tmp_path: Path, harm: Callable[[Path], None], says: str) -> None:
    file = tmp_path / "mlflow.db"
    shutil.copy(made, file)
    harm(file)
    with pytest.raises(Exception) as failed:  # noqa: PT011  (whatever the store's driver raises)
        send(file)
    line = first_line(failed.value)
    assert line.startswith(says), line
    assert "\n" not in line
    assert len(line) < 120


def test_a_locked_file_is_one_short_line_and_later_goes_on(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    shutil.copy(made, file)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as failed:
            send(file)
        assert first_line(failed.value) == "another program has locked the file"
    send(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "BAD_REQUEST: (sqlite3.OperationalError) database is locked\n[SQL: INSERT INTO runs]\n(Background on …",
            "another program has locked the file",
        ),
        (
            "(sqlite3.OperationalError) attempt to write a readonly database [SQL: INSERT INTO runs] [parameters: ()]",
            "the file, or its folder, may not be written",
        ),
        ("(psycopg2.OperationalError) server closed [SQL: SELECT 1]\n(Background on …", "server closed"),
        ("RESOURCE_DOES_NOT_EXIST: no run\nat all", "RESOURCE_DOES_NOT_EXIST: no run"),
        ("", "ValueError"),
    ],
)
def test_the_line_has_no_sql(text: str, says: str) -> None:
    assert first_line(ValueError(text)) == says
