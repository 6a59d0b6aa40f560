import optuna
import pytest
import torch

from sadm_ray.config import SamplingSettings, TuneSettings
from sadm_ray.tune.sampling_space import grid, initial_points, sampling_space, trial_sampling
from tests.model.test_sadm import SHAPE, small


def test_a_point_overrides_the_settings() -> None:
    base = SamplingSettings(spacing="karras")
    chosen = trial_sampling({"sampler": "ddim", "num_steps": 2, "guidance_scale": 0.123456}, base)
    assert chosen == SamplingSettings(spacing="karras", sampler="ddim", num_steps=2, guidance_scale=0.123)


def test_the_initial_points_are_in_the_space() -> None:
    tune = TuneSettings(trials=6, sampler=("ancestral",), num_steps=(1, 2, 4, 8), stochasticity=(0.0, 0.2))
    plain = initial_points(tune, SamplingSettings(sampler="ddim", stochasticity=0.5))
    assert [each["num_steps"] for each in plain] == [1, 2, 4]
    space = sampling_space(tune)
    for each in plain:
        assert set(each) == set(space)
        assert all(space[name]._contains(space[name].to_internal_repr(value)) for name, value in each.items())
        assert (each["sampler"], each["guidance_scale"], each["stochasticity"]) == ("ancestral", 0.0, 0.2)


@pytest.mark.parametrize("stochasticity", [0.0, 0.017, 0.333, 0.5, 1.0])
def test_ranges_are_searched_in_twentieths_including_their_ends(stochasticity: float) -> None:
    tune = TuneSettings(guidance_scale=(0.0, 0.5), stochasticity=(0.1, 0.9))
    space = sampling_space(tune)
    for low, high, name in ((0.0, 0.5, "guidance_scale"), (0.1, 0.9, "stochasticity")):
        drawn = {optuna.create_study().ask(space).params[name] for _ in range(60)}
        assert min(drawn) >= low
        assert max(drawn) <= high
        assert all(abs(20 * (value - low) / (high - low) % 1 - 0.5) > 0.49 for value in drawn)
    for point in initial_points(tune, SamplingSettings(stochasticity=stochasticity)):
        value = point["stochasticity"]
        assert abs(value - min(max(stochasticity, 0.1), 0.9)) <= 0.02 + 1e-9
        optuna.trial.create_trial(params=point, distributions=space, value=0.0)  # Optuna accepts it


def test_values_that_optuna_cannot_hold_survive_as_text() -> None:
    tune = TuneSettings(guidance_interval=(None, (-4.5, 2.0)), ema=(None, 0.999))
    space = sampling_space(tune)
    for interval, label in zip(tune.guidance_interval, space["guidance_interval"].choices, strict=True):
        for decay, name in zip(tune.ema, space["ema"].choices, strict=True):
            point = {"guidance_interval": label, "ema": name, "guidance_scale": 1.0}
            chosen = trial_sampling(point, SamplingSettings(ema=0.5, guidance_interval=(0.0, 1.0)))
            assert (chosen.guidance_interval, chosen.ema) == (interval, decay)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"sampler": "ddim", "stochasticity": 0.1}, {"sampler": "ddim", "stochasticity": 0.9}, True),
        ({"sampler": "ancestral", "stochasticity": 0.1}, {"sampler": "ancestral", "stochasticity": 0.9}, False),
        ({"sampler": "ancestral", "num_steps": 1}, {"sampler": "dpm++", "num_steps": 1, "spacing": "karras"}, True),
        ({"sampler": "ddim", "num_steps": 2}, {"sampler": "dpm++", "num_steps": 2}, True),
        ({"sampler": "ddim", "num_steps": 3}, {"sampler": "dpm++", "num_steps": 3}, False),
        ({"guidance_interval": "-1.0 to 1.0"}, {"guidance_interval": "everywhere"}, True),
    ],
)
def test_settings_are_equal_if_and_only_if_their_volumes_are(one: dict, other: dict, same: bool) -> None:
    base = SamplingSettings(num_steps=4)
    first, second = trial_sampling(one, base), trial_sampling(other, base)
    assert (first == second) is same
    # The model's volumes agree.
    model, frames = small(), torch.rand(1, 3, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    arguments = (
        frames,
        torch.tensor([[True, True, False]]),
        torch.tensor([[0.0, 0.4, 1.0]]),
        torch.tensor([[1.0]]),
        [3],
    )
    plain = [
        model.generate(*arguments, SamplingSettings.model_validate(base.model_dump() | values))
        for values in _raw(one, other)
    ]
    assert torch.allclose(plain[0], plain[1], atol=1e-6) is same


def _raw(*points: dict) -> list[dict]:
    """The points as settings, also those without effect."""
    intervals = {"everywhere": None, "-1.0 to 1.0": (-1.0, 1.0)}
    return [
        {key: intervals[value] if key == "guidance_interval" else value for key, value in point.items()}
        for point in points
    ]


@pytest.mark.parametrize(
    ("own", "scale", "first"),
    [
        (0, (-0.4, 0.4), 0.0),
        (0, (-0.5, -0.1), -0.1),
        (0, (0.2, 1), 0.2),
        (-0.25, (-0.5, 0.5), -0.25),
        (-0.25, (0, 1), 0.0),
    ],
)
def test_a_sweep_begins_with_its_own_guidance(own: float, scale: tuple[float, float], first: float) -> None:
    tune = TuneSettings(guidance_scale=scale)
    (point, *_) = initial_points(tune, SamplingSettings(guidance_scale=own))
    assert sampling_space(tune)["guidance_scale"]._contains(point["guidance_scale"])
    chosen = trial_sampling(point, SamplingSettings()).guidance_scale
    assert (chosen, str(chosen)) == (first, str(first)), "nor is nothing written -0.0"


def test_a_temperature_is_searched_only_if_set() -> None:
    base = SamplingSettings(temperature=0.5)
    assert "temperature" not in sampling_space(TuneSettings())
    (first, *_) = initial_points(TuneSettings(), base)
    assert trial_sampling(first, base).temperature == 0.5
    tune = TuneSettings(temperature=(1.0, 0.5, 0.25))
    assert sampling_space(tune)["temperature"].choices == (1.0, 0.5, 0.25)
    assert {point["temperature"] for point in initial_points(tune, base)} == {0.5}
    assert trial_sampling({"temperature": 0.25}, base).temperature == 0.25


def test_a_grid_has_every_combination_once() -> None:
    tune = TuneSettings(
        search="grid", sampler=("ancestral", "ddim"), num_steps=(1, 2), guidance_scale=(0.0, 1.0), grid_points=3
    )
    points = grid(tune, SamplingSettings())
    # One step: 3 scales; two steps: 3 scales, of the ancestral sampler with 3 stochasticities each.
    assert len(points) == 3 + 3 * (3 + 1)
    assert len({trial_sampling(point, SamplingSettings()) for point in points}) == len(points)
    assert {point["guidance_scale"] for point in points} == {0.0, 0.5, 1.0}
