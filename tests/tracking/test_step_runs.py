"""Steps and what they record, in a store that answers."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sadm_ray.config import Settings
from sadm_ray.tracking import step_history, tracked_step
from sadm_ray.tracking.run_ids import IDS
from tests.tracking.conftest import MakeSettings

Runs = Callable[[], dict[str, Any]]


def test_steps_are_children_and_are_marked_at_their_end(settings: Settings, runs: Runs) -> None:
    with tracked_step(settings, "prepare") as tracked:
        tracked.params({"digest": "abc"})
        tracked.tags({"study": "phantom"})
        trial = tracked.child("trial-1")
        trial.metrics({"psnr": 20.0})
        trial.finish()
    with pytest.raises(ZeroDivisionError), tracked_step(settings, "train"):
        _ = 1 / 0
    with pytest.raises(KeyboardInterrupt), tracked_step(settings, "tune"):
        raise KeyboardInterrupt
    found = runs()
    parent = found["tiny"]
    assert parent.data.params["run.name"] == "tiny"
    assert "mlflow.parentRunId" not in parent.data.tags
    statuses = {name: run.info.status for name, run in found.items()}
    assert statuses == {
        "tiny": "FINISHED",
        "tiny/prepare": "FINISHED",
        "trial-1": "FINISHED",
        "tiny/train": "FAILED",
        "tiny/tune": "KILLED",
    }
    above = {name: run.data.tags.get("mlflow.parentRunId") for name, run in found.items()}
    assert above["tiny/train"] == above["tiny/tune"] == above["tiny/prepare"] == parent.info.run_id
    assert above["trial-1"] == found["tiny/prepare"].info.run_id
    assert found["tiny/prepare"].data.params == {"digest": "abc"}
    assert found["tiny/prepare"].data.tags["study"] == "phantom"
    kept = json.loads((settings.run_dir / IDS).read_text())
    assert kept["uri"] == settings.tracking.uri
    assert kept["ids"]["train"] == found["tiny/train"].info.run_id
    assert not list(settings.run_dir.glob("tracking/*/*")), "nothing waits, so nothing is kept"


def test_a_step_goes_on_in_its_run(
    settings: Settings, make_settings: MakeSettings, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    with tracked_step(settings, "train") as tracked:
        tracked.metrics({"loss": 3.0}, step=1)
        tracked.metrics({"loss": 2.0}, step=2)
    with tracked_step(make_settings(seed=5), "train") as tracked:
        tracked.metrics({"loss": 1.0}, step=2)
        tracked.metrics({"loss": 0.5}, step=3)
        assert tracked.history("loss") == [(1, 3.0), (2, 1.0), (3, 0.5)]
        assert runs()["tiny/train"].info.status == "RUNNING"
    assert step_history(settings, "train", "loss") == [(1, 3.0), (2, 1.0), (3, 0.5)]
    assert step_history(settings, "tune", "loss") == []
    assert runs()["tiny"].data.params["seed"] == "0"
    assert caplog.records == []


def test_another_store_starts_anew(settings: Settings, make_settings: MakeSettings, store: str) -> None:
    (settings.run_dir).mkdir(parents=True)
    (settings.run_dir / IDS).write_text(json.dumps({"uri": "http://other", "ids": {"train": "f" * 32}}))
    with tracked_step(settings, "train"):
        pass
    kept = json.loads((settings.run_dir / IDS).read_text())
    assert kept["uri"] == store
    assert kept["ids"]["train"] != "f" * 32


def test_a_run_that_the_store_has_lost_is_made_again(settings: Settings, store: str, runs: Runs) -> None:
    (settings.run_dir).mkdir(parents=True)
    (settings.run_dir / IDS).write_text(json.dumps({"uri": store, "ids": {"run": "e" * 32, "train": "f" * 32}}))
    with tracked_step(settings, "train") as tracked:
        tracked.metrics({"loss": 1.0})
    assert runs()["tiny/train"].data.metrics == {"loss": 1.0}
    assert runs()["tiny/train"].data.tags["mlflow.parentRunId"] == runs()["tiny"].info.run_id


def test_files_and_bytes_are_kept(settings: Settings, runs: Runs, client: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"12")
    with tracked_step(settings, "train") as tracked:
        tracked.artifact(folder)
        tracked.artifact(folder / "weights", "loose")
        tracked.content("a.png", b"pixels", "pictures")
        tracked.content("deep/b.png", b"")
    run = runs()["tiny/train"].info.run_id
    paths = {path: [file.path for file in client.list_artifacts(run, path)] for path in ("model", "loose", "pictures")}
    assert paths == {"model": ["model/weights"], "loose": ["loose/weights"], "pictures": ["pictures/a.png"]}
    assert Path(client.download_artifacts(run, "pictures/a.png")).read_bytes() == b"pixels"
    assert Path(client.download_artifacts(run, "deep/b.png")).read_bytes() == b""


def test_a_dataset_is_an_input_once(settings: Settings, runs: Runs) -> None:
    for _ in range(2):
        with tracked_step(settings, "train") as tracked:
            tracked.dataset("phantom", "d" * 64, "s3://bucket/shards", {"subjects": 12})
    (known,) = runs()["tiny/train"].inputs.dataset_inputs
    assert (known.dataset.name, known.dataset.digest) == ("phantom", "d" * 36)
    assert json.loads(known.dataset.source) == {"uri": "s3://bucket/shards"}
    assert json.loads(known.dataset.profile) == {"subjects": 12}
    assert [(tag.key, tag.value) for tag in known.tags] == [("mlflow.data.context", "training")]


def test_a_model_is_registered_once(settings: Settings, runs: Runs, client: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    name = f"sadm {tmp_path.name}"

    def register(weights: bytes, digest: str) -> None:
        (folder / "weights").write_bytes(weights)
        with tracked_step(settings, "train") as tracked:
            tracked.register(folder, name, {"digest": digest, "steps": "4"})

    register(b"one", "1")
    register(b"one", "1")
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert version.run_id == runs()["tiny/train"].info.run_id
    assert version.tags == {"digest": "1", "steps": "4"}
    assert version.status == "READY"
    register(b"two", "2")
    assert len(client.search_model_versions(f"name = '{name}'")) == 2
    from mlflow.artifacts import download_artifacts

    place = client.get_model_version_download_uri(name, version.version)
    assert (Path(download_artifacts(place)) / "weights").read_bytes() == b"two"  # one place in the run: the newest


def test_what_is_refused_is_left_out_alone(
    settings: Settings, runs: Runs, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with tracked_step(settings, "train") as tracked:
        tracked.params({"a": 1, "b": 1})
        tracked.params({"a": 2, "c": 3})
        tracked.artifact(tmp_path / "nowhere.csv")
        tracked.metrics({"good": 1.0, "no\nname": 2.0, "better": 2.0}, step=1)
        tracked.metrics({f"m{number}": 0.0 for number in range(1500)}, step=1)
        tracked.metrics({"last": 1.0})
    run = runs()["tiny/train"]
    assert run.data.params == {"a": "1", "b": "1", "c": "3"}
    assert {"good", "better", "m0", "m1499", "last"} <= set(run.data.metrics)
    assert len(run.data.metrics) == 1503
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 3
    assert "refuses a of train" in lines[0]
    assert "nowhere.csv is no longer there" in lines[1]
    assert "refuses no name of train" in lines[2]


def test_numbers_that_are_none_break_nothing(settings: Settings, client: Any, runs: Runs) -> None:
    with tracked_step(settings, "train") as tracked:
        tracked.metrics({"loss": math.nan, "up": math.inf, "fine": 1.0}, step=1)
    run = runs()["tiny/train"]
    assert run.data.metrics["fine"] == 1.0
    assert math.isnan(run.data.metrics["loss"])
    assert run.data.metrics["up"] > 1e300
