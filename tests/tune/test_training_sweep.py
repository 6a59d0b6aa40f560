"""The sweep of training settings: invalid settings, its result, early stopping, and a crash of the sweep."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from sadm_ray import steps
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import dump_settings, load_settings, with_values
from sadm_ray.data.shards.prepared_study import read_study
from sadm_ray.errors import ConfigError
from sadm_ray.tracking import tracking_uri
from sadm_ray.tune.json_lines import JsonLines
from sadm_ray.tune.training_space import trial_settings
from sadm_ray.tune.training_sweep import _sweep_name
from tests.processes import kill_everything, start
from tests.tiny import settings_on

pytestmark = pytest.mark.ray


def settings_with(folder: Path, shards: str, training: dict[str, Any], **train: Any) -> Settings:
    common = {"log_every": 100, "warmup_steps": 0, "targets_per_subject": 4}
    return with_values(
        settings_on(folder, shards, **{**common, **train}), {"tune.sweep": "training", "tune.training": training}
    )


def test_an_invalid_sweep_is_refused_before_anything_starts(shards: str, tmp_path: Path) -> None:
    settings = settings_with(tmp_path, shards, {"first_steps": 5})
    with pytest.raises(ConfigError, match=r"tune\.training\.first_steps: 5 is more than train\.steps, 4"):
        steps.tune_training(settings)
    assert not (settings.run_dir / "sweeps").exists()


def test_a_trial_is_a_run_of_its_own_and_validated_at_every_rung(shards: str, tmp_path: Path) -> None:
    study = read_study(shards)
    training = {"first_steps": 3, "space": {"train.learning_rate": [1e-3, 2e-3]}}
    base = settings_with(tmp_path, shards, training, storage=str(tmp_path / "storage"))
    one, other = (trial_settings(base, {"train.learning_rate": rate}, study, tmp_path) for rate in (1e-3, 2e-3))
    assert (one.train.learning_rate, one.train.validation.generate_every) == (1e-3, 3)
    assert one.train.validation.loss_every == base.train.validation.loss_every
    assert one.run_dir != other.run_dir
    assert one.train.storage == str(tmp_path / "storage" / "tiny" / "trials")
    assert trial_settings(base, {"train.learning_rate": 1e-3}, study, tmp_path) == one


def begun(settings: Settings, *points: dict[str, Any]) -> None:
    """As if a sweep had been killed after starting these, so that it repeats them in this order. [x] is a choice."""
    folder = settings.run_dir / "sweeps" / _sweep_name(settings, read_study(settings.data.shards or ""))
    for number, point in enumerate(points):
        texts = {key: json.dumps(*value) if isinstance(value, list) else value for key, value in point.items()}
        JsonLines(folder / "trials.jsonl").append({"trial": f"begun-{number}", "point": texts})


def newest_step(run: Path) -> int:
    """The step of the newest whole checkpoint."""
    manifests = sorted((run / "model.ray" / "checkpoints").glob("checkpoint-*/manifest.json"))
    return int(manifests[-1].parent.name.removeprefix("checkpoint-")) if manifests else 0


def training_workers() -> list[int]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one, too
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


ENOUGH = 150
"""Steps, so many that a trial which is stopped after 20 has not reached its end before the request arrives."""
SLOW = 16
"""Its batch, so large that they take it long. The others take theirs in a fraction of that."""


def test_a_sweep_stops_bad_trials_lists_failures_and_writes_the_best(shards: str, tmp_path: Path) -> None:
    space = {
        "train.learning_rate": {"low": 1e-9, "high": 2e-3},
        "train.batch_size": [1, SLOW],
        "diffusion.log_snr_min": [-15.0, 99.0],
    }
    training = {"trials": 4, "objective": "val_loss", "first_steps": 20, "reduction": 2, "space": space}
    settings = settings_with(tmp_path, shards, training, steps=ENOUGH, checkpoint_every=ENOUGH)
    good = {"train.learning_rate": 5e-4, "train.batch_size": [1], "diffusion.log_snr_min": [-15.0]}
    bad, invalid = (
        good | {"train.learning_rate": 1e-9, "train.batch_size": [SLOW]},
        good | {"diffusion.log_snr_min": [99.0]},
    )
    begun(settings, good, bad, invalid, good)
    swept = steps.tune_training(settings)

    assert swept.subjects == tuple(read_study(shards).names("val")[:4])
    assert list(swept.trials["stopped"]) == [False, True, False]
    assert list(swept.trials["train.learning_rate"]) == [5e-4, 1e-9, 5e-4]
    first, stopped, again = swept.trials.to_dict("records")
    assert first == again, "the same values are trained once"
    assert first["steps"] == ENOUGH
    assert 20 <= stopped["steps"] < ENOUGH
    assert stopped["val_loss"] > first["val_loss"]
    (failure,) = swept.failures
    assert failure.endswith("diffusion.log_snr_min 99.0: diffusion: log_snr_min must be below log_snr_max")

    trials = settings.run_dir / "sweeps" / "trials"
    assert stopped["steps"] <= newest_step(trials / stopped["trial"]) < ENOUGH, "it saved when it was stopped"
    assert not (trials / stopped["trial"] / "model").exists()
    assert newest_step(trials / first["trial"]) == ENOUGH
    end = time.monotonic() + 30
    while training_workers() or ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < end, "workers are still there, or CPUs still held"
        time.sleep(0.2)

    file = settings.run_dir / "tuned-training.yaml"
    best = load_settings(file)
    assert best == swept.best
    assert (best.train.learning_rate, best.diffusion.log_snr_min) == (5e-4, -15.0)
    assert (best.run.name, best.tune) == ("tiny-tuned", settings.tune)
    assert "4 trainings of tiny: 1 were stopped early, 1 failed" in file.read_text()
    assert len((settings.run_dir / "sweeps" / "training-trials.csv").read_text().splitlines()) == 4

    children = mlflow_children(settings)
    assert {name: run.info.status for name, run in children.items()} == {
        first["trial"]: "FINISHED",
        stopped["trial"]: "FINISHED",
    }
    assert "stopped_early" not in children[first["trial"]].data.tags
    assert children[stopped["trial"]].data.tags["stopped_early"] == "true"
    assert children[stopped["trial"]].data.params["train.learning_rate"] == "1e-09"
    assert {"val_loss", "loss"} <= set(children[first["trial"]].data.metrics)

    began = time.monotonic()
    longer = settings.model_copy(update={"tune": settings.tune.model_copy(update={"sweep": "sampling"})})
    assert steps.tune_training(longer).trials.equals(swept.trials), "again, the trials that ended are kept"
    print(f"again: {time.monotonic() - began:.1f} s")


def mlflow_children(settings: Settings) -> dict[str, Any]:
    """The runs of the trials, by name."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(settings))
    experiment = client.get_experiment_by_name("sadm-ray")
    runs = client.search_runs([experiment.experiment_id])
    (sweep,) = [run for run in runs if run.info.run_name == "tiny/tune-training"]
    below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == sweep.info.run_id]
    named = {str(run.info.run_name).rpartition("/")[2]: run for run in below}
    assert len(named) == len(below), "no trial has two runs"
    return named


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_sweep_is_resumed(shards: str, tmp_path: Path) -> None:
    training = {
        "trials": 3,
        "objective": "val_loss",
        "first_steps": 100,
        "space": {"train.learning_rate": {"low": 1e-3, "high": 3e-3}},
    }
    settings = settings_with(tmp_path, shards, training, steps=400, checkpoint_every=40, keep_checkpoints=100)
    file, log = tmp_path / "settings.yaml", tmp_path / "log"
    file.write_text(dump_settings(settings))
    trials = settings.run_dir / "sweeps" / "trials"

    def ended() -> list[Path]:
        return list(trials.glob("*/model/model.safetensors"))

    def under_way() -> list[Path]:
        return [run for run in trials.glob("*") if 0 < newest_step(run) < 400]

    job = start("tune", "--config", str(file), log=log)
    while not ended() or not under_way():
        assert job.poll() is None, log.read_text()
        time.sleep(0.05)
    kill_everything(job)
    (model,), (killed,) = ended(), under_way()
    written = {
        file: file.stat().st_mtime_ns for file in [model, *killed.glob("model.ray/*/checkpoint-*/manifest.json")]
    }
    assert len(written) > 1

    assert start("tune", "--config", str(file), log=log).wait() == 0, log.read_text()
    table = (settings.run_dir / "sweeps" / "training-trials.csv").read_text().splitlines()
    assert len(table) == 1 + 3
    assert {run.name for run in trials.glob("*")} == set(mlflow_children(settings))
    assert newest_step(killed) > max(int(file.parent.name[-8:]) for file in written if file != model)
    # The finished trial was kept, and the other one was resumed: no checkpoint was written twice.
    assert {file: file.stat().st_mtime_ns for file in written} == written
