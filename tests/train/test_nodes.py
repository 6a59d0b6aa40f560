"""What happens to a training on a cluster when one of its nodes dies and another joins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sadm_ray import steps
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import dump_settings
from tests.processes import kill_everything
from tests.tiny import settings_on

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# Many quick steps, as of a simple model: nodes take their time to leave and to join, however fast the machine is.
SIMPLE = {"prior": None, "target": "difference", "reference": "nearest"}
TRAIN = {"steps": 1500, "checkpoint_every": 20, "targets_per_subject": 3, "log_every": 100, "optimizer": "adamw"}
QUICK = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}


def settings_of(folder: Path, shards: str, **train: Any) -> Settings:
    settings = settings_on(folder, shards, **{**TRAIN, **train})
    return settings.model_copy(update={"model": settings.model.model_copy(update=SIMPLE)})


@pytest.mark.timeout(1500)
def test_a_node_dies_and_another_joins(shards: str, tmp_path: Path) -> None:
    """Three nodes, one or two workers; the run ends by itself and its model is as good as an undisturbed one's."""
    settings = settings_of(tmp_path, shards, workers=2, min_workers=1)
    file, out, log = (tmp_path / name for name in ("settings.yaml", "report.json", "log"))
    file.write_text(dump_settings(settings))
    checkpoints = settings.run_dir / "model.ray" / "checkpoints"
    arguments = [sys.executable, "-m", "tests.train.nodes", str(file), str(checkpoints), str(out)]
    with log.open("wb") as lines:
        job = subprocess.Popen(arguments, env={**os.environ, **QUICK}, stdout=lines, stderr=lines)
    try:
        assert job.wait(timeout=1300) == 0, log.read_text()
    except subprocess.TimeoutExpired:
        pytest.fail(f"not done after 1300 s:\n{log.read_text()}")
    finally:
        kill_everything(job)
    report = json.loads(out.read_text())
    facts = report.pop("facts")
    print(f"one of three nodes was killed, another joined: {report}")
    assert facts.get("step") == 1500, log.read_text()
    assert report["sizes"] == [2, 1, 2]
    undisturbed = steps.train(settings_of(tmp_path / "undisturbed", shards, checkpoint_every=1500))
    # One worker or two sum in another order, and thousands of steps of AdamW let that grow: the weights are others.
    assert facts["val_loss"] == pytest.approx(undisturbed.facts["val_loss"], rel=0.25)
