"""A generation that is killed goes on where it was, and ends with the same files as if nothing had happened."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch

from sadm_ray.config import Settings
from sadm_ray.config.settings_file import dump_settings
from sadm_ray.data.shards.prepared_study import read_study
from sadm_ray.model.registry import build_model
from sadm_ray.train.trainer import model_config
from tests.processes import family, kill, kill_everything, start
from tests.tiny import settings_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SUBJECTS = 200
ACTOR = "MapWorker"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("killed")
    tree = settings_for(folder).model_dump()
    tree["phantom"]["subjects"] = SUBJECTS
    tree["sampling"]["num_steps"] = 2
    tree["generate"] |= {
        "split": "all",
        "samples": 2,
        "actors": 2,
        "estimates": ["mean", "std"],
        "out": str(folder / "undisturbed"),
    }
    settings = Settings.model_validate(tree)
    (folder / "settings.yaml").write_text(dump_settings(settings))
    assert start("prepare", "--config", str(folder / "settings.yaml")).wait() == 0
    torch.manual_seed(0)
    model = build_model(model_config(settings, read_study(str(settings.run_dir / "shards"))))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(settings.run_dir / "model")
    return settings


def generate(settings: Settings, out: Path, log: Path) -> subprocess.Popen[bytes]:
    return start("generate", "--config", str(settings.run.dir / "settings.yaml"), f"generate.out={out}", log=log)


def records(out: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (out / "predictions").glob("[!.]*.parquet")}


def actors(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [each for each in family(job) if ACTOR in " ".join(each.cmdline())]


def manifest(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "manifest.parquet").to_pylist()


@pytest.mark.timeout(1500)
def test_killed_at_random_moments(settings: Settings, tmp_path: Path) -> None:
    undisturbed, out, log = Path(str(settings.generate.out)), tmp_path / "out", tmp_path / "log"
    assert generate(settings, undisturbed, log).wait() == 0, log.read_text()
    random, before = np.random.default_rng(), {}
    moments = np.sort(random.uniform(0.05, 0.95, size=3)) * SUBJECTS
    job = generate(settings, out, log)
    for turn, moment in enumerate(moments):
        while len(records(out)) < moment:
            assert job.poll() is None, log.read_text()
            time.sleep(0.02)
        if turn % 2:  # an actor alone: Ray Data has another do its work
            kill([random.choice(actors(job))])
            continue
        kill_everything(job)
        now = records(out)
        assert {name: now[name] for name in before} == before, "a subject that was done is not done again"
        before = now
        job = generate(settings, out, log)
    assert job.wait() == 0, log.read_text()
    now = records(out)
    assert {name: now[name] for name in before} == before
    assert len(now) == SUBJECTS
    assert manifest(out) == manifest(undisturbed)
    there = {str(file.relative_to(out)) for file in out.glob("sub-*/**/*.*")}
    assert there == {row["path"] for row in manifest(out)}, "nothing half-written, nothing missing"
    assert not (out / "failures.csv").exists()
