"""A study whose storage is an object store, from preparation to the report: an S3 server on the loopback."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest

from sadm_ray.config.settings_file import dump_settings
from sadm_ray.data.shards.prepared_study import SHARDS_FOLDER, read_study
from sadm_ray.evaluate.score_tables import COPY_LAST, SAMPLE
from sadm_ray.generate.generation_record import PREDICTIONS, recorded
from sadm_ray.storage import Storage
from sadm_ray.tracking import step_history
from sadm_ray.train.checkpoint import Checkpoints
from tests.processes import kill_everything, start
from tests.tiny import settings_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def copied(source: Path, target: str) -> str:
    here, there = Storage(str(source)), Storage(target)
    for entry in here.entries():
        there.write(entry.path, here.read(entry.path))
    return target


def test_another_machine_goes_on_with_nothing_but_the_bucket(
    s3_bucket: str, phantom_study: Path, tmp_path: Path
) -> None:
    """The first is lost in the middle of training, with its disk; the third only knows the model of the second."""
    bucket = f"{s3_bucket}/whole-way"
    file, log = tmp_path / "settings.yaml", tmp_path / "log"
    file.write_text(dump_settings(settings_for(tmp_path)))
    places = [
        f"data.root={copied(phantom_study, f'{bucket}/study')}",
        f"data.shards={bucket}/shards",
        f"train.storage={bucket}/training",
        f"generate.out={bucket}/generated",
    ]
    checkpoints = Checkpoints(f"{bucket}/training/tiny/checkpoints")

    first = start("run", "--config", str(file), *places, f"run.dir={tmp_path / 'first'}", "train.steps=9999", log=log)
    end = time.monotonic() + 600
    while checkpoints.newest() is None:
        assert first.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)
    kill_everything(first)
    lost = checkpoints.newest()
    assert lost is not None
    shards = {entry.path: entry.modified for entry in Storage(f"{bucket}/shards/{SHARDS_FOLDER}").entries()}

    steps = lost.step + 4
    second = tmp_path / "second"
    job = start("run", "--config", str(file), *places, f"run.dir={second}", f"train.steps={steps}", log=log)
    assert job.wait() == 0, log.read_text()
    assert {entry.path: entry.modified for entry in Storage(f"{bucket}/shards/{SHARDS_FOLDER}").entries()} == shards
    done = [step for step, _ in step_history(settings_for(second), "train", "loss")]
    assert done == list(range(lost.step + 1, steps + 1)), "it went on, and did not begin anew"
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == steps
    generated = Storage(f"{bucket}/generated")
    assert recorded(generated) == set(read_study(f"{bucket}/shards").subjects["test"])
    assert {COPY_LAST, SAMPLE} <= set(pd.read_csv(second / "tiny" / "evaluation" / "table.csv")["method"])
    assert (second / "tiny" / "report.html").stat().st_size > 100_000
    assert not (second / "tiny" / "shards").exists()
    assert not (second / "tiny" / "generated").exists()

    made = {entry.path: entry.modified for entry in Storage(generated.where(PREDICTIONS)).entries()}
    copied(second / "tiny" / "model", f"{bucket}/published/model")
    Storage(f"{bucket}/published").write("tuned.yaml", (second / "tiny" / "tuned.yaml").read_bytes())
    alone = [*places, f"generate.model={bucket}/published/model", f"run.dir={tmp_path / 'third'}"]
    for step in ("generate", "evaluate"):
        assert start(step, "--config", str(file), *alone, log=log).wait() == 0, log.read_text()
    assert {entry.path: entry.modified for entry in Storage(generated.where(PREDICTIONS)).entries()} == made
    assert (tmp_path / "third" / "tiny" / "report.html").exists()
