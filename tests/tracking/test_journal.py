"""The journal: what of it outlives a killed process."""

import os
from pathlib import Path

from sadm_ray.tracking.journal import Journal
from sadm_ray.tracking.log_record import LogRecord


def metric(step: int) -> LogRecord:
    return LogRecord("train", "metrics", {"values": {"loss": 1.0}, "step": step}, time=7)


def left(folder: Path) -> list[tuple[int, LogRecord]]:
    """What the journals of ended processes hold; they stay as they are."""
    found = []
    for journal, records in Journal.left(folder):
        found += records
        journal.close()
    return found


def test_what_was_not_sent_is_found_again(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path)
    for step in range(3):
        journal.append(metric(step))
    journal.append(LogRecord("train", "content", {"name": "a", "folder": None}, b"bytes"))
    journal.sent([1])
    assert left(tmp_path) == [], "its process still looks after it"
    journal.close()
    ((found, records),) = Journal.left(tmp_path)
    assert records[:2] == [(0, metric(0)), (2, metric(2))]
    assert [number for number, _ in records] == [0, 2, 3]
    assert found.content(3) == b"bytes"
    found.sent([3])
    found.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path)
    for step in range(12):
        journal.append(metric(step))
    journal.sent([3])
    journal.close()
    (file,) = tmp_path.glob("*.jsonl")
    with file.open("a") as lines:
        lines.write('{"number": 12, "key": "tra')
    with file.with_suffix(".sent").open("a") as marks:
        marks.write("1")  # the head of 11
    assert [number for number, _ in left(tmp_path)] == [0, 1, 2, *range(4, 12)]


def test_an_emptied_journal_goes_on(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path)
    journal.append(metric(0))
    journal.sent([0])
    journal.empty()
    number, _ = journal.append(metric(1))
    journal.close()
    assert left(tmp_path) == [(number, metric(1))]


def test_two_at_once_do_not_share(tmp_path: Path) -> None:
    one, other = Journal.begin(tmp_path), Journal.begin(tmp_path)
    assert len(list(tmp_path.glob(f"*-{os.getpid()}-*.jsonl"))) == 2
    one.remove()
    other.append(metric(1))
    other.close()
    assert left(tmp_path) == [(0, metric(1))]
