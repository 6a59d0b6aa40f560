"""The outbox and its sender where the store is away, comes back, or takes only a part."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sadm_ray.config import Settings
from sadm_ray.tracking import TrackedRun, sender_thread, tracked_step
from sadm_ray.tracking.log_record import LogRecord, TrackingStore
from sadm_ray.tracking.mlflow_store import Refusal
from sadm_ray.tracking.outbox import Outbox, outbox_folder
from sadm_ray.tracking.sender_thread import Sender
from tests.tracking.conftest import MakeSettings

Runs = Callable[[], dict[str, Any]]


class FakeStore:
    """Takes all records, but those that it is set to fail."""

    def __init__(self) -> None:
        self.away, self.failing = False, ""
        self.calls, self.seconds_a_call, self.heard_at = 0, 0.0, 0.0
        self.taken: list[LogRecord] = []

    def answers(self) -> bool:
        return not self.away

    def send(self, records: Sequence[LogRecord], content: Callable[[], bytes]) -> list[Refusal]:
        if self.away or records[0].kind == self.failing:
            raise ConnectionError("no route\nat all")
        for _ in range(self.calls):
            time.sleep(self.seconds_a_call)
            self.heard_at = time.monotonic()
        self.taken += records
        return []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_thread, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(sender_thread, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(sender_thread, "PATIENCE", 0.5)


@pytest.fixture
def place(tmp_path: Path) -> TrackingStore:
    return TrackingStore(tmp_path, "http://someone:secret@nowhere", "none", "tiny")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def waited(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_an_outage_is_logged_once_and_caught_up(place: TrackingStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outbox, store = Outbox(place), FakeStore()
    at_work = Sender(outbox, store, place.uri)
    at_work.start()
    run = TrackedRun("train", outbox)
    store.away = True
    for step in range(50):
        run.metrics({"loss": 1.0}, step)
        time.sleep(0.002)
    assert at_work.flush() == 50
    assert at_work.away
    store.away = False
    assert at_work.flush() == 0
    assert [record.body["step"] for record in store.taken] == list(range(50))
    assert waited(lambda: len(caplog.records) == 2)
    assert warnings(caplog) == [
        f"MLflow at http://nowhere cannot be reached (no route); what is recorded is kept in {outbox.folder} "
        "and sent when it answers"
    ]
    at_work.close()
    outbox.close()


def test_a_server_that_comes_back_slowly_is_waited_for(place: TrackingStore) -> None:
    """The first record takes several calls, which together are longer than the patience with one that is away."""
    outbox, store = Outbox(place), FakeStore()
    at_work = Sender(outbox, store, place.uri)
    store.away = True
    TrackedRun("train", outbox).metrics({"loss": 1.0})
    at_work.start()
    assert waited(lambda: at_work.away)
    store.away, store.calls, store.seconds_a_call = False, 10, 0.2 * sender_thread.PATIENCE
    assert at_work.flush() == 0
    assert len(store.taken) == 1
    at_work.close()
    outbox.close()


def test_what_fails_alone_does_not_hold_up_the_rest(place: TrackingStore, caplog: pytest.LogCaptureFixture) -> None:
    outbox, store = Outbox(place), FakeStore()
    at_work = Sender(outbox, store, place.uri)
    store.failing = "content"
    run = TrackedRun("train", outbox)
    run.content("a.png", b"pixels")
    run.metrics({"loss": 1.0})
    at_work.start()
    assert waited(lambda: [record.kind for record in store.taken] == ["metrics"])
    assert waited(lambda: len(warnings(caplog)) == 1)
    assert at_work.flush() == 1
    assert "does not take content of train (no route)" in warnings(caplog)[0]
    store.failing = ""
    assert at_work.flush() == 0
    assert [record.kind for record in store.taken] == ["metrics", "content"]
    at_work.close()
    outbox.close()
    assert not list(outbox.folder.iterdir())


def test_the_next_step_sends_what_a_killed_one_left(settings: Settings, runs: Runs) -> None:
    place = TrackingStore(settings.run_dir, str(settings.tracking.uri), settings.tracking.experiment, "tiny")
    outbox = Outbox(place)  # without a sender
    run = TrackedRun("train", outbox)
    run.finish("RUNNING")
    for step in range(5):
        run.metrics({"loss": float(step)}, step)
    run.content("note.txt", b"hello")
    outbox.close()
    (file,) = outbox.folder.glob("*.jsonl")
    with file.open("a") as lines:
        lines.write('{"number": 99, "key": "train", "ki')
    with tracked_step(settings, "evaluate") as tracked:
        assert TrackedRun("train", tracked.sink).history("loss") == [(step, float(step)) for step in range(5)]
    assert runs()["tiny/train"].info.status == "RUNNING"
    assert not list(outbox.folder.iterdir())


def test_a_journal_from_elsewhere_sends_no_other_file(place: TrackingStore, caplog: pytest.LogCaptureFixture) -> None:
    place = replace(place, folder=place.folder / "run")
    outbox = Outbox(place)
    run = TrackedRun("train", outbox)
    run.artifact(place.folder / "table.csv")
    run.artifact(place.folder.parent / "private.txt")
    run.artifact(place.folder / ".." / "private.txt")
    run.artifact(place.folder / "table.csv", "../../up")
    run.register(place.folder.parent / "model", "tiny", {})
    run.content("../../up.png", b"pixels")
    run.content("step.png", b"pixels", "validation")
    run.metrics({"loss": 1.0})
    outbox.close()
    later = Outbox(place)
    assert [waiting.record.kind for waiting in later.waiting()] == ["artifact", "content", "metrics"]
    assert f"records of files outside of {place.folder} are not sent" in caplog.text
    later.close()
    assert len(Outbox(place)) == 3, "what was left out is not looked at again"


def test_sending_twice_is_harmless(settings: Settings, client: Any, runs: Runs, tmp_path: Path) -> None:
    """The driver was killed after MLflow had taken the records, and before they were marked."""
    from sadm_ray.tracking.mlflow_store import MlflowStore

    place = TrackingStore(settings.run_dir, str(settings.tracking.uri), settings.tracking.experiment, "tiny")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    outbox = Outbox(place)
    run = TrackedRun("train", outbox)
    run.finish("RUNNING")
    run.params({"a": 1})
    for step in range(5):
        run.metrics({"loss": 1.0, "bad": float("nan"), "up": float("inf")}, step)
    run.dataset("d", "1", "file", {})
    run.register(tmp_path / "model", tmp_path.name, {"digest": "1"})
    run.finish()
    for _ in range(2):
        store = MlflowStore(place)
        for waiting in outbox.waiting():
            assert store.send([waiting.record], waiting.content) == []
        (settings.run_dir / "tracking.json").write_text(
            # nor was the id of the run kept
            (settings.run_dir / "tracking.json").read_text().replace('"train":', '"lost":')
        )
    found = runs()["tiny/train"]
    for metric in ("loss", "bad", "up"):
        assert [row.step for row in client.get_metric_history(found.info.run_id, metric)] == list(range(5))
    assert len(found.inputs.dataset_inputs) == 1
    assert len(client.search_model_versions(f"name = '{tmp_path.name}'")) == 1
    outbox.close()


def test_a_store_that_never_answers_stops_nothing(
    make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(uri="http://127.0.0.1:9")
    start = time.monotonic()
    with tracked_step(settings, "train") as tracked:
        tracked.metrics({"loss": 1.0})
        tracked.child("trial").finish()
        tracked.content("a", b"b")
        assert time.monotonic() - start < 5
    place = TrackingStore(settings.run_dir, "http://127.0.0.1:9", settings.tracking.experiment, "tiny")
    away, kept = warnings(caplog)
    assert "cannot be reached" in away
    assert "records for MLflow at http://127.0.0.1:9 are kept in" in kept
    assert str(outbox_folder(place)) in kept


def test_a_folder_that_cannot_be_written_stops_nothing(
    settings: Settings, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    settings.run_dir.mkdir(parents=True)
    (settings.run_dir / "tracking").write_text("in the way")
    with tracked_step(settings, "train") as tracked:
        tracked.metrics({"loss": 1.0})
        tracked.content("a", b"b")
    assert runs()["tiny/train"].data.metrics == {"loss": 1.0}
    assert len(warnings(caplog)) == 1
