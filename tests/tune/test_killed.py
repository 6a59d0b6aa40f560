"""A sweep that is killed with all of Ray keeps its trials, and evaluates nothing twice."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from sadm_ray.tune.trial_history import History
from tests.processes import kill_everything, start
from tests.tiny import settings_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TRIALS, SUBJECTS = 6, 4


def settings_file(folder: Path) -> Path:
    tree = settings_for(folder).model_dump(mode="json", exclude_defaults=True)
    tree["phantom"]["subjects"] = 20
    tree["data"]["split"] |= {"val": 0.3}
    tree["tune"] = {"trials": TRIALS, "subjects": SUBJECTS, "concurrent": 1, "num_steps": [1, 2, 3, 4], "samples": 2}
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def history(run: Path) -> History | None:
    found = list(run.glob("sweeps/sweep-*/trials.jsonl"))
    assert len(found) <= 1  # one model and one set of tasks, one sweep
    return History(found[0]) if found else None


def scores(run: Path) -> list[tuple[str, str]]:
    """The digest of the settings and the subject of every evaluation that was completed."""
    files = run.glob("sweeps/sweep-*/scores/*.jsonl")
    lines = [(file.stem, line) for file in files for line in file.read_text().splitlines()]
    done = []
    for name, line in lines:
        try:
            done.append((name, json.loads(line)["subject"]))
        except ValueError:
            continue
    return done


@pytest.mark.timeout(1500)
def test_killed_twice(tmp_path: Path) -> None:
    file, run, log = settings_file(tmp_path), tmp_path / "tiny", tmp_path / "log"
    for step in ("prepare", "train"):
        assert start(step, "--config", str(file), log=log).wait() == 0, log.read_text()

    ended: dict[str, list[dict[str, Any]]] = {}
    done: Counter[tuple[str, str]] = Counter()
    for wanted in (2, 4):
        job = start("tune", "--config", str(file), log=log)
        while (now := history(run)) is None or len(now.ended) < wanted:
            assert job.poll() is None, log.read_text()
            time.sleep(0.05)
        kill_everything(job)
        now = history(run)
        assert now is not None
        after = {trial.name: trial.reports for trial in now.ended}
        assert ended.items() <= after.items()
        ended = after
        done = Counter(scores(run))
        assert done.total() > 0
    assert start("tune", "--config", str(file), log=log).wait() == 0, log.read_text()

    trials = pd.read_csv(run / "sweeps" / "trials.csv").set_index("trial")
    assert len(trials) == TRIALS
    for name, reports in ended.items():
        kept = trials.loc[name]
        for key, value in reports[-1].items():
            assert kept[key] == pytest.approx(value, rel=1e-12), (name, key)
    evaluated = Counter(scores(run))
    assert done <= evaluated
    assert set(evaluated.values()) == {1}

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run}/mlflow.db")
    experiment = client.get_experiment_by_name("sadm-ray")
    runs = client.search_runs([experiment.experiment_id])
    sweep = [each.info.run_id for each in runs if each.info.run_name == "tiny/tune"]
    assert len(sweep) == 1
    children = [each for each in runs if each.data.tags.get("mlflow.parentRunId") == sweep[0]]
    assert len(children) == TRIALS
    for child in children:
        row = trials.loc[child.info.run_name.split("/")[-1]]
        assert child.data.metrics["gain"] == pytest.approx(row["gain"])
        assert child.data.tags["stopped_early"] == str(row["stopped"]).lower()
