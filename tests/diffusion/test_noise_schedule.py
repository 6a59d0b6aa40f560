import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sadm_ray.diffusion.noise_schedule import Schedule, alpha_sigma

SCHEDULES = [
    Schedule(kind, low, high, shift)
    for kind in ("cosine", "linear", "sigmoid")
    for low, high, shift in [(-12, 12, 0.0), (-8, 10, 0.0), (-12, 12, -3.0)]
]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


@each_schedule
def test_ends_are_exact_and_it_falls_between_them(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    assert log_snr[0].item() == pytest.approx(schedule.log_snr_max + schedule.shift, abs=1e-9)
    assert log_snr[-1].item() == pytest.approx(schedule.log_snr_min + schedule.shift, abs=1e-9)
    assert (log_snr.diff() < 0).all()


@each_schedule
def test_time_inverts_log_snr(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, atol=1e-9, rtol=0)


def test_bases_are_those_of_their_papers() -> None:
    """α² of DDPM's β from 1e-4 to 0.02, of the cosine and of the sigmoid, at times that are theirs but for a scale."""
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    end = torch.sigmoid(torch.tensor(3.0, dtype=torch.float64))
    alpha2 = {
        "cosine": torch.cos(0.5 * math.pi * t) ** 2,
        "linear": torch.cumprod(1 - betas, 0)[(t * 1000).long() - 1],
        "sigmoid": (end - torch.sigmoid(6 * t - 3)) / (2 * end - 1),
    }
    for kind, expected in alpha2.items():
        at = Schedule(kind).time(torch.logit(expected))
        scaled = 0.1 + 0.8 * (at - at[0]) / (at[-1] - at[0])
        torch.testing.assert_close(scaled, t, atol=2e-3, rtol=0)


@given(st.floats(-30, 30))
def test_variance_is_preserved_and_the_snr_is_exact(value: float) -> None:
    log_snr = torch.tensor(value, dtype=torch.float64)
    alpha, sigma = alpha_sigma(log_snr)
    assert (alpha**2 + sigma**2).item() == pytest.approx(1, abs=1e-12)
    assert (alpha / sigma).square().log().item() == pytest.approx(value, abs=1e-9)


@each_schedule
@pytest.mark.parametrize("spacing", ["time", "log_snr", "karras"])
@pytest.mark.parametrize("count", [1, 7])
def test_nodes_rise_from_noise_to_clean(schedule: Schedule, spacing: str, count: int) -> None:
    nodes = schedule.steps(count, spacing)
    assert len(nodes) == count + 1
    assert nodes[0] == pytest.approx(schedule.log_snr_min + schedule.shift, abs=1e-9)
    assert nodes[-1] == pytest.approx(schedule.log_snr_max + schedule.shift, abs=1e-9)
    assert all(later > earlier for earlier, later in pairwise(nodes))


def test_spacings_are_even_in_their_own_measure() -> None:
    schedule = Schedule()
    for spacing, measure in {
        "time": lambda value: schedule.time(torch.tensor(value, dtype=torch.float64)).item(),
        "log_snr": lambda value: value,
        "karras": lambda value: math.exp(-0.5 * value) ** (1 / 7),
    }.items():
        at = torch.tensor([measure(value) for value in schedule.steps(6, spacing)], dtype=torch.float64)
        torch.testing.assert_close(at.diff(), at.diff().mean().expand(6), atol=1e-9, rtol=0)
