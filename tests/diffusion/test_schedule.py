import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sadm_ray.diffusion.schedule import CosineSchedule, alpha_sigma

SCHEDULES = [CosineSchedule(), CosineSchedule(-8, 10), CosineSchedule(shift=-2.0)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ends_and_fall(schedule: CosineSchedule) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    assert log_snr[0].item() == pytest.approx(schedule.log_snr_max + schedule.shift, abs=1e-9)
    assert log_snr[-1].item() == pytest.approx(schedule.log_snr_min + schedule.shift, abs=1e-9)
    assert (log_snr.diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_inverts_log_snr(schedule: CosineSchedule) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, atol=1e-9, rtol=0)


@given(st.floats(-30, 30))
def test_variance_is_preserved_and_snr_is_what_it_says(value: float) -> None:
    log_snr = torch.tensor(value, dtype=torch.float64)
    alpha, sigma = alpha_sigma(log_snr)
    assert (alpha**2 + sigma**2).item() == pytest.approx(1, abs=1e-12)
    assert (alpha / sigma).square().log().item() == pytest.approx(value, abs=1e-9)
