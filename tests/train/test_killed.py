"""A training that is killed ends with the weights of one that was not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from tests.processes import kill, kill_everything, start, workers
from tests.tiny import settings_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS, KILLS = 160, 2
TRAIN = {"steps": STEPS, "checkpoint_every": 4, "log_every": 10, "max_failures": -1, "targets_per_subject": 3}


def step_of(run: Path) -> int:
    """The step of the newest whole checkpoint."""
    manifests = sorted((run / "model.ray" / "checkpoints").glob("checkpoint-*/manifest.json"))
    return int(manifests[-1].parent.name.removeprefix("checkpoint-")) if manifests else 0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A settings file and the shards of a tiny phantom."""
    folder = tmp_path_factory.mktemp("study")
    file, shards = folder / "settings.yaml", folder / "shards"
    settings = settings_for(folder, **TRAIN).model_dump(mode="json", exclude_defaults=True)
    settings["data"]["shards"] = str(shards)
    file.write_text(yaml.safe_dump(settings))
    assert start("prepare", "--config", str(file)).wait() == 0
    return file, folder


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("count", "tolerance"), [(1, 0.0), (2, 1e-6)])
def test_killed_at_random_moments(prepared: tuple[Path, Path], tmp_path: Path, count: int, tolerance: float) -> None:
    file, _ = prepared

    def train(name: str):  # type: ignore[no-untyped-def]
        where = (f"run.dir={tmp_path}", f"run.name={name}", f"train.workers={count}")
        return start("train", "--config", str(file), *where, log=tmp_path / f"{name}.log")

    assert train("undisturbed").wait() == 0, (tmp_path / "undisturbed.log").read_text()

    random, run, seen = np.random.default_rng(), tmp_path / "killed", 0
    job = train("killed")
    for number in range(KILLS):
        # a fraction of what is left: a machine on which many steps pass before the killing is kept alive too
        wanted = seen + int(random.integers(0, (STEPS - seen) // (2 * (KILLS - number))))
        while job.poll() is None and (step_of(run) < wanted or not workers(job)):
            time.sleep(0.05)
        time.sleep(random.uniform(0, 0.5))
        assert job.poll() is None, (tmp_path / "killed.log").read_text()
        if number % 2:
            kill_everything(job)
            job = train("killed")
        else:
            kill([random.choice(np.array(workers(job), dtype=object))])
            while job.poll() is None and len(workers(job)) > count - 1:
                time.sleep(0.05)  # until the dead one is seen to be dead
        seen = max(seen, step_of(run))
    assert job.wait() == 0, (tmp_path / "killed.log").read_text()

    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("undisturbed", "killed"))
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        np.testing.assert_allclose(other[key], tensor, rtol=0, atol=tolerance, err_msg=key)
    states = [
        json.loads((tmp_path / name / f"model.ray/checkpoints/checkpoint-{STEPS:08d}/state.json").read_text())
        for name in ("undisturbed", "killed")
    ]
    assert states[0]["subjects_read"] == states[1]["subjects_read"]
    assert states[0]["epoch"] == states[1]["epoch"] > 4
