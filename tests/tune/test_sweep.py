"""Sweeps on Ray, with trials that cost nothing: which are stopped, which fail, and how a sweep is resumed."""

from pathlib import Path
from typing import Any

import pytest
from ray import tune

from sadm_ray.config import Settings
from sadm_ray.tracking import TrackedRun
from sadm_ray.tune.sampling_sweep import run_trials
from sadm_ray.tune.sampling_trial import rungs
from sadm_ray.tune.sweep_result import SamplingSweep, summarise_trials
from sadm_ray.tune.trial_history import History
from tests.tune.cheap_trial import trial

pytestmark = pytest.mark.ray

SUBJECTS = 8
TRIALS = 8


class Recorded:
    """Instead of MLflow."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def put(self, record: Any) -> None:
        self.records.append(record)

    def of(self, kind: str) -> list[Any]:
        return [record for record in self.records if record.kind == kind]


def settings(**changes: Any) -> Settings:
    few = {"trials": TRIALS, "concurrent": 1, "sampler": ["ddim"], "num_steps": [1, 2, 4, 8], "first_subjects": 2}
    scored = {"objectives": ["gain", "network_calls"], "guidance_scale": [0.0, 1.0]}
    return Settings.model_validate({"tune": few | scored | changes})


def run(chosen: Settings, folder: Path, broken: int = 0) -> tuple[SamplingSweep, Recorded, list[str]]:
    recorded, attempts = Recorded(), folder / "attempts"
    attempts.unlink(missing_ok=True)
    history = History(folder / "trials.jsonl")
    trainable = tune.with_parameters(trial, broken=broken, attempts=attempts, rungs=rungs(chosen.tune, SUBJECTS))
    failures = run_trials(trainable, chosen, folder, SUBJECTS, history, TrackedRun("sweep", recorded))
    swept = summarise_trials(
        history.ended, chosen.sampling, chosen.tune.objectives, tuple(map(str, range(SUBJECTS))), failures
    )
    return swept, recorded, attempts.read_text().split() if attempts.exists() else []


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory, ray_local: None
) -> tuple[Path, tuple[SamplingSweep, Recorded, list[str]]]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run(settings(), folder, broken=2)


def test_bad_trials_are_stopped_and_the_best_is_not(swept: Any) -> None:
    found, recorded, _ = swept[1]
    trials = found.trials
    assert 0 < trials["stopped"].sum() < len(trials)
    assert set(trials["subjects"]) <= {2, 4, 8}
    full = trials[~trials["stopped"]]
    assert full["gain"].max() == trials["gain"].max()
    assert found.best.num_steps == full.sort_values("gain")["num_steps"].iloc[-1]
    tags = [record.body["values"]["stopped_early"] for record in recorded.of("tags")]
    assert sorted(tags) == sorted(str(stopped).lower() for stopped in trials["stopped"])


def test_a_trial_that_fails_is_tried_three_times_and_ends_nothing(swept: Any) -> None:
    found, _, attempts = swept[1]
    assert len(found.failures) >= 1
    assert all("no such luck" in line for line in found.failures)
    assert len(found.trials) + len(found.failures) == TRIALS
    assert 2 not in set(found.trials[~found.trials["stopped"]]["num_steps"])
    # Those that were stopped at the first rung did not get to their failure.
    assert attempts.count("2") == 3 * len(found.failures) + (found.trials["num_steps"] == 2).sum()


def test_the_same_sweep_again_repeats_failures_and_more_trials_extend_it(swept: Any) -> None:
    folder, (first, _, _) = swept
    again, recorded, attempts = run(settings(), folder)
    assert again.failures == ()
    assert len(attempts) == len(first.failures)
    assert len(again.trials) == TRIALS
    assert set(first.trials["trial"]) <= set(again.trials["trial"])
    assert len({record.key for record in recorded.of("status")}) == len(first.failures)
    longer, _, attempts = run(settings(trials=TRIALS + 3), folder)
    assert len(attempts) == 3
    assert longer.trials["trial"].tolist()[:TRIALS] == again.trials["trial"].tolist()
    assert len(longer.trials) == TRIALS + 3
    # The scheduler still has the earlier scores: trials that are worse are stopped at once.
    done, _, attempts = run(settings(trials=TRIALS + 3), folder)
    assert attempts == []
    assert done.trials.equals(longer.trials)


@pytest.mark.parametrize("search", ["grid", "nsga2"])
def test_other_searches(search: str, tmp_path: Path, ray_local: None) -> None:
    chosen = settings(search=search, trials=5, reduction=None, grid_points=2, concurrent=2)
    found, _, _ = run(chosen, tmp_path)
    assert len(found.trials) == (8 if search == "grid" else 5)
    assert not found.trials["stopped"].any()
    if search == "grid":
        assert not found.trials.duplicated(["num_steps", "guidance_scale"]).any()
        assert (found.best.num_steps, found.best.guidance_scale) == (8, 0.0)
