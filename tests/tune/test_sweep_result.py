"""The best trial, the Pareto front, and the files of a sweep."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sadm_ray.config import SamplingSettings
from sadm_ray.errors import DataError
from sadm_ray.tune.sweep_result import SamplingSweep, summarise_trials, write_trials
from sadm_ray.tune.trial_history import Trial
from sadm_ray.tune.tuned_settings import write_tuned

BASE = SamplingSettings()
SUBJECTS = ("a", "b", "c", "d")


def trial(steps: int, gain: float, calls: int, subjects: int = 4, **others: Any) -> Trial:
    report = {"gain": gain, "network_calls": calls, "subjects": subjects, "calibration": 1.0, "seconds": 2.0, **others}
    return Trial(f"{steps}-{gain}", {"num_steps": steps}, [{"gain": -9.0}, report], ended=True)


def sweep(*trials: Trial, objectives: tuple[str, ...] = ("gain", "network_calls")) -> SamplingSweep:
    return summarise_trials(trials, BASE, objectives, SUBJECTS, ["one went wrong"])


def test_of_equally_good_trials_the_cheapest_is_best() -> None:
    assert sweep(trial(8, 2.000, 8), trial(4, 1.995, 4), trial(2, 1.98, 2)).best.num_steps == 4
    assert sweep(trial(8, 2.000, 8), trial(4, 1.985, 4)).best.num_steps == 8


def test_a_stopped_trial_is_neither_best_nor_on_the_front() -> None:
    swept = sweep(trial(8, 1.0, 8), trial(1, 5.0, 1, subjects=2))
    assert swept.best.num_steps == 8
    assert swept.trials["stopped"].tolist() == [False, True]
    assert swept.trials["pareto"].tolist() == swept.trials["chosen"].tolist() == [True, False]


def test_the_front_has_the_trials_that_none_dominates() -> None:
    trials = [trial(1, 0.5, 1), trial(2, 0.4, 2), trial(4, 2.0, 4), trial(5, 1.0, 4), trial(8, 2.0, 8)]
    assert sweep(*trials).trials["pareto"].tolist() == [True, False, True, False, False]
    # A third objective that is less at the last one brings it onto the front.
    trials[-1] = trial(8, 2.0, 8, calibration=0.1)
    objectives = ("gain", "network_calls", "calibration")
    assert sweep(*trials, objectives=objectives).trials["pareto"].tolist() == [True, False, True, False, True]


def test_equal_trials_are_both_on_the_front() -> None:
    assert sweep(trial(1, 1.0, 1), trial(2, 1.0, 1)).trials["pareto"].tolist() == [True, True]


def test_a_minimised_objective() -> None:
    trials = [trial(1, 3.0, 1, calibration=0.9), trial(4, 1.0, 4, calibration=0.2)]
    assert sweep(*trials, objectives=("calibration", "gain")).best.num_steps == 4


def test_an_objective_that_is_undefined_everywhere_is_an_error() -> None:
    nowhere = [trial(1, 1.0, 1, calibration=np.nan)]
    with pytest.raises(DataError, match=r"calibration is not defined .* tune\.objectives"):
        sweep(*nowhere, objectives=("calibration",))
    partly = [*nowhere, trial(2, 1.0, 2, calibration=3.0)]
    assert sweep(*partly, objectives=("calibration",)).best.num_steps == 2


def test_only_failures_are_one_error() -> None:
    with pytest.raises(DataError, match="every trial of the sweep failed; the first: one went wrong"):
        sweep()


def test_the_file_can_be_read_by_generate(tmp_path: Path) -> None:
    point = {"guidance_interval": "-3.0 to 2.5", "guidance_scale": 0.5, "ema": "0.9", "num_steps": 4}
    tried = trial(4, 1.5, 6)
    swept = sweep(Trial("x", point, tried.reports, ended=True), trial(1, 1.0, 1, subjects=2))
    write_tuned(tmp_path / "tuned.yaml", swept)
    text = (tmp_path / "tuned.yaml").read_text()
    assert SamplingSettings.model_validate(yaml.safe_load(text)["sampling"]) == swept.best
    assert swept.best.guidance_interval == (-3.0, 2.5)
    assert swept.best.ema == 0.9
    for part in (
        "2 trials",
        "1 were stopped early",
        "1 failed",
        "validation subjects: a, b, c, d",
        "+1.50 dB",
        "6 network",
    ):
        assert part in text


def test_the_table_and_the_plots_that_have_enough_trials(tmp_path: Path) -> None:
    few = [trial(steps, float(steps), steps) for steps in (1, 2)]
    many = [trial(steps, steps + 0.01 * number, steps) for number in range(4) for steps in (1, 2, 4)]
    plots = {"trials.csv", "pareto.png", "importance.png"}
    assert {file.name for file in write_trials(tmp_path, sweep(*many), "gain")} == plots
    assert {file.name for file in write_trials(tmp_path, sweep(*few), "gain")} == plots - {"importance.png"}
    assert {file.name for file in tmp_path.iterdir()} == plots - {"importance.png"}
