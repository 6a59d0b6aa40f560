"""Samplers against closed forms: oracles, Gaussian data, and independence of batch-mates."""

import itertools

import pytest
import torch
from torch import Tensor

from sadm_ray.diffusion.guidance import guide
from sadm_ray.diffusion.samplers import SeededNoise, ancestral_step, sample
from sadm_ray.diffusion.schedule import CosineSchedule, alpha_sigma, per_sample

SCHEDULE = CosineSchedule()
SHAPE = (1, 1, 2, 2)
WAYS = [("ddim", 0.0), ("ancestral", 0.0), ("ancestral", 0.5), ("ancestral", 1.0)]


@pytest.mark.parametrize(("sampler", "stochasticity"), WAYS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_oracle_recovers_x(sampler: str, stochasticity: float, steps: int) -> None:
    x = torch.randn(3, *SHAPE)
    drawn = sample(
        lambda z, log_snr: x, SCHEDULE, SeededNoise([1, 2, 3]), SHAPE,
        sampler=sampler, num_steps=steps, stochasticity=stochasticity,
    )  # fmt: skip
    torch.testing.assert_close(drawn, x)


def gaussian_denoiser(mean: float, deviation: float):
    """E[x | z] for x ~ N(mean, deviation²): what a perfect network would say."""

    def denoise(z: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = (per_sample(a, z) for a in alpha_sigma(log_snr))
        gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
        return mean + gain * (z - alpha * mean)

    return denoise


@pytest.mark.parametrize(("sampler", "stochasticity"), [("ddim", 0.0), ("ancestral", 0.0), ("ancestral", 1.0)])
def test_moments_of_gaussian_data(sampler: str, stochasticity: float) -> None:
    mean, deviation, shape = 0.7, 0.4, (1, 20, 40, 50)
    drawn = sample(
        gaussian_denoiser(mean, deviation), SCHEDULE, SeededNoise([0]), shape,
        sampler=sampler, num_steps=400, stochasticity=stochasticity,
    )  # fmt: skip
    # 40,000 voxels: the standard error of the mean is 0.002; the rest is the steps' own error.
    assert drawn.mean().item() == pytest.approx(mean, abs=0.01)
    assert drawn.std().item() == pytest.approx(deviation, abs=0.02)


def test_variance_of_the_ancestral_step_is_interpolated() -> None:
    log_snr_t, log_snr_s = torch.tensor(-1.0), torch.tensor(1.5)
    zero, one = torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE)

    def deviation(v: float) -> Tensor:
        return ancestral_step(zero, zero, log_snr_t, log_snr_s, one, v).flatten()[0]

    r = torch.exp(log_snr_t - log_snr_s)
    torch.testing.assert_close(deviation(0.0), ((1 - r) * torch.sigmoid(-log_snr_s)).sqrt())
    torch.testing.assert_close(deviation(1.0), ((1 - r) * torch.sigmoid(-log_snr_t)).sqrt())
    torch.testing.assert_close(deviation(0.5), (deviation(0.0) * deviation(1.0)).sqrt())


@pytest.mark.parametrize(("sampler", "stochasticity"), WAYS)
def test_a_sample_depends_on_its_own_seed_only(sampler: str, stochasticity: float) -> None:
    denoise = gaussian_denoiser(0.0, 1.0)

    def draw(seeds: list[int]) -> Tensor:
        return sample(
            denoise, SCHEDULE, SeededNoise(seeds), SHAPE,
            sampler=sampler, num_steps=5, stochasticity=stochasticity,
        )  # fmt: skip

    together, alone = draw([11, 12, 13]), draw([12])
    assert torch.equal(together[1], alone[0])
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(together, 2))


def test_callback_sees_every_step() -> None:
    seen: list[int] = []
    sample(
        gaussian_denoiser(0, 1), SCHEDULE, SeededNoise([0]), SHAPE,
        num_steps=4, callback=lambda step, x_hat: seen.append(step),
    )  # fmt: skip
    assert seen == [0, 1, 2, 3]


def test_guidance_is_the_identity_without_strength_and_extrapolates_with_it() -> None:
    calls: list[int] = []

    def denoise(z: Tensor, log_snr: Tensor, condition: Tensor) -> Tensor:
        calls.append(len(z))
        return z * 0 + condition

    z, log_snr = torch.randn(2, *SHAPE), torch.zeros(2)
    condition, null = torch.ones(2, *SHAPE), torch.zeros(2, *SHAPE)
    torch.testing.assert_close(guide(denoise, condition, null, 0.0)(z, log_snr), condition)
    assert calls == [2]  # no unconditional branch is paid for
    torch.testing.assert_close(guide(denoise, condition, null, 1.5)(z, log_snr), 2.5 * condition)
    assert calls == [2, 4]
