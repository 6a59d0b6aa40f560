"""The plots of a sweep, and the numbers in them."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest

from sadm_ray.config.tune_settings import Objective
from sadm_ray.evaluate.sweep_objectives import OBJECTIVES
from sadm_ray.evaluate.sweep_plots import MEANINGS, cheapest_best, draw_importance, draw_pareto, importance


def table(count: int, seed: int = 0) -> pd.DataFrame:
    """Trials of which the number of steps decides, the guidance a little, and the sampler nothing."""
    generator = np.random.default_rng(seed)
    steps = generator.choice([1, 2, 4, 8], count)
    scale = generator.uniform(0, 1, count)
    gain = np.log2(steps) - 0.5 * scale + 0.01 * generator.standard_normal(count)
    samplers = generator.choice(["ancestral", "ddim", "dpm++"], count)
    trials = pd.DataFrame({"sampler": samplers, "num_steps": steps, "guidance_scale": scale, "precision": "float32"})
    calls = steps * 2
    return trials.assign(
        gain=gain, network_calls=calls, calibration=-gain, stopped=gain < -0.3, chosen=gain == gain.max(), ema=np.nan
    )


def test_the_deciding_setting_is_the_most_important() -> None:
    for seed in range(5):
        shares = importance(table(40, seed), "gain")
        assert max(shares, key=shares.__getitem__) == "num_steps"
        assert shares["num_steps"] > 0.7
        assert shares["sampler"] < 0.2
        assert not {"precision", "ema"} & set(shares)


def test_too_few_trials_give_no_importance() -> None:
    assert draw_importance(table(40).head(7), "gain") is None
    assert draw_importance(table(40).assign(gain=1.0), "gain") is None


def test_the_front_rises_with_the_calls() -> None:
    trials = pd.DataFrame({"network_calls": [1, 2, 4, 4, 8], "gain": [20.0, 19.0, 22.0, 21.0, 22.0]})
    assert cheapest_best(trials, "gain").index.tolist() == [0, 2]
    assert cheapest_best(trials.assign(calibration=-trials["gain"]), "calibration").index.tolist() == [0, 2]


@pytest.mark.parametrize("objective", ["gain", "calibration"])
@pytest.mark.parametrize("count", [1, 40])
def test_the_plots_are_drawn(objective: str, count: int) -> None:
    trials = table(40)
    trials = trials[~trials["stopped"]].head(1) if count == 1 else trials
    png = draw_pareto(trials, objective)
    assert png is not None
    assert png.startswith(b"\x89PNG")
    assert draw_pareto(trials.assign(stopped=True), objective) is None


def test_every_objective_that_can_be_the_first_has_a_name_on_the_axis() -> None:
    assert set(get_args(Objective)) == set(OBJECTIVES)
    assert set(MEANINGS) == set(OBJECTIVES) - {"network_calls"}
