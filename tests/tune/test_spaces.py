import pytest

from sadm_ray.config import SamplingSettings, TuneSettings
from sadm_ray.tune.spaces import chosen_sampling, network_calls, plain_choices, sampling_space


def test_a_choice_goes_on_top_of_the_settings() -> None:
    base = SamplingSettings(spacing="karras")
    chosen = chosen_sampling({"sampler": "ddim", "num_steps": 2, "guidance_scale": 0.123456}, base)
    assert chosen == SamplingSettings(spacing="karras", sampler="ddim", num_steps=2, guidance_scale=0.123)


def test_the_plain_settings_come_first_and_lie_in_the_space() -> None:
    tune = TuneSettings(trials=6, sampler=("ancestral",), num_steps=(1, 2, 4, 8), stochasticity=(0.0, 0.2))
    plain = plain_choices(tune, SamplingSettings(sampler="ddim", stochasticity=0.5))
    assert [each["num_steps"] for each in plain] == [1, 2, 4]
    for each in plain:
        assert set(each) == set(sampling_space(tune))
        assert (each["sampler"], each["guidance_scale"], each["stochasticity"]) == ("ancestral", 0.0, 0.2)


@pytest.mark.parametrize(("scale", "calls"), [(0.0, 4), (0.5, 8)])
def test_guidance_doubles_the_calls(scale: float, calls: int) -> None:
    assert network_calls(SamplingSettings(num_steps=4, guidance_scale=scale)) == calls
