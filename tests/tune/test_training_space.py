"""The search space of training settings, and what is drawn in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from sadm_ray.config import Settings
from sadm_ray.errors import ConfigError
from sadm_ray.tune.training_space import check_space, drawn_values, initial_point, search_space
from tests.tune.test_training_sweep import settings_with


@pytest.mark.parametrize(
    ("space", "line"),
    [
        ({"train.learning_rat": [0.1]}, r"train\.learning_rat: no such setting; did you mean train\.learning_rate\?"),
        ({"train.learning_rate": {"low": -1.0, "high": 1.0}}, r"train\.learning_rate: input should be greater than 0"),
        ({"diffusion.schedule": ["cosine", "sine"]}, r"diffusion\.schedule: input should be 'cosine'"),
        ({"train.batch_size": {"low": 1.5, "high": 4.0}}, r"train\.batch_size: input should be a valid integer"),
        ({"model.target": []}, r"model\.target: an empty list"),
        ({"data.frames": [4, 6]}, r"data\.frames: has to be the same in every trial"),
        ({"seed": [1, 2]}, r"seed: has to be the same"),
        ({"run.name": ["other"]}, r"run\.name: has to be the same"),
        ({"ray.address": ["auto"]}, r"ray\.address: has to be the same"),
        ({"tracking.uri": ["x"]}, r"tracking\.uri: has to be the same"),
        ({"phantom.subjects": [3]}, r"phantom\.subjects: has to be the same"),
        ({"train.steps": [3, 4]}, r"train\.steps: has to be the same"),
        ({"train.validation.subjects": [1, 2]}, r"train\.validation\.subjects: has to be the same"),
    ],
)
def test_an_invalid_space_is_refused(space: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=rf"^tune\.training\.space: {line}"):
        check_space(settings_with(Path("runs"), "shards", {"first_steps": 1, "space": space}))


def test_the_default_space_can_be_swept() -> None:
    check_space(Settings.model_validate({"tune": {"sweep": "training"}}))


def test_the_space_holds_the_settings_own_values_and_whole_numbers_stay_whole() -> None:
    space = {
        "model.denoiser.widths": [[8, 8], [16, 16]],
        "train.batch_size": {"low": 2, "high": 3},
        "train.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
    }
    settings = settings_with(Path("runs"), "shards", {"first_steps": 1, "space": space})
    first = drawn_values(initial_point(settings), settings.tune.training)
    assert first == {"model.denoiser.widths": [16, 16], "train.batch_size": 3, "train.learning_rate": 1e-3}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    sizes, rates = set(), []
    for _ in range(50):
        values = drawn_values(study.ask(search_space(settings)).params, settings.tune.training)
        sizes.add(values["train.batch_size"])
        rates.append(values["train.learning_rate"])
    assert sizes == {2, 3}
    assert all(1e-4 <= rate <= 1e-3 and rate == float(f"{rate:.3g}") for rate in rates)
