"""Samplers against closed forms: oracles, Gaussian data, convergence, and independence of batch-mates."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from sadm_ray.diffusion.guidance import Denoise, guide
from sadm_ray.diffusion.noise_schedule import Schedule
from sadm_ray.diffusion.samplers import SeededNoise, ancestral_step, integrate, sample

SCHEDULE = Schedule()
SHAPE = (1, 1, 2, 2)
WAYS = [("ddim", 0.0), ("dpm++", 0.0), ("ancestral", 0.0), ("ancestral", 0.5), ("ancestral", 1.0)]
each_way = pytest.mark.parametrize(("sampler", "stochasticity"), WAYS)


@each_way
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_oracle_recovers_x(sampler: str, stochasticity: float, steps: int) -> None:
    x = torch.randn(3, *SHAPE)
    nodes, noise = SCHEDULE.steps(steps), SeededNoise([1, 2, 3])
    drawn = sample(lambda z, log_snr: x, nodes, noise, SHAPE, sampler=sampler, stochasticity=stochasticity)
    torch.testing.assert_close(drawn, x)


def test_ddim_with_an_oracle_follows_the_straight_path() -> None:
    """z stays α x + σ ε with the one ε that it began with."""
    x, eps = torch.randn(2, 2, *SHAPE, dtype=torch.float64)
    nodes = [-5.0, -1.0, 0.5, 6.0]

    def z_at(log_snr: float) -> Tensor:
        return math.sqrt(1 / (1 + math.exp(-log_snr))) * x + math.sqrt(1 / (1 + math.exp(log_snr))) * eps

    torch.testing.assert_close(integrate(lambda z, log_snr: x, nodes, z_at(nodes[0])), z_at(nodes[-1]))


def gaussian_denoiser(mean: Tensor, covariance: Tensor) -> Denoise:
    """E[x | z] for x ~ N(mean, covariance) over the last axis: the prediction of a perfect network."""
    size = len(mean)

    def denoise(z: Tensor, log_snr: float) -> Tensor:
        alpha2, sigma2 = 1 / (1 + math.exp(-log_snr)), 1 / (1 + math.exp(log_snr))
        alpha = math.sqrt(alpha2)
        gain = alpha * covariance @ torch.linalg.inv(alpha2 * covariance + sigma2 * torch.eye(size).to(covariance))
        return mean + (z - alpha * mean) @ gain.T

    return denoise


MEAN = torch.tensor([0.7, -0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)


@each_way
@pytest.mark.parametrize("spacing", ["time", "log_snr", "karras"])
def test_moments_of_gaussian_data(sampler: str, stochasticity: float, spacing: str) -> None:
    denoise = gaussian_denoiser(MEAN.float(), COVARIANCE.float())
    drawn = sample(
        denoise, SCHEDULE.steps(300, spacing), SeededNoise([0]), (1, 200, 200, 2),
        sampler=sampler, stochasticity=stochasticity,
    ).reshape(-1, 2)  # fmt: skip
    # 40,000 pairs: standard errors of about 0.004; the rest is the steps' own error.
    torch.testing.assert_close(drawn.mean(dim=0), MEAN.float(), atol=0.015, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), COVARIANCE.float(), atol=0.025, rtol=0)


def convergence_order(sampler: str) -> float:
    """How fast the error at a fixed noise level falls with the number of steps, against a very fine solution."""
    denoise = gaussian_denoiser(MEAN, COVARIANCE)
    z = torch.randn(64, 1, 1, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def solve(steps: int, way: str) -> Tensor:
        return integrate(denoise, torch.linspace(-6, 4, steps + 1, dtype=torch.float64).tolist(), z, sampler=way)

    exact = solve(20_000, "dpm++")
    coarse, fine = ((solve(steps, sampler) - exact).abs().max().item() for steps in (40, 80))
    return math.log2(coarse / fine)


def test_ddim_converges_with_order_one_and_the_multistep_solver_with_two() -> None:
    assert convergence_order("ddim") == pytest.approx(1, abs=0.15)
    assert convergence_order("dpm++") >= 1.8


def test_variance_of_the_ancestral_step_is_interpolated() -> None:
    log_snr_t, log_snr_s = -1.0, 1.5
    zero, one = torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE)

    def deviation(v: float) -> float:
        return ancestral_step(zero, zero, log_snr_t, log_snr_s, one, v).flatten()[0].item()

    one_minus_r = 1 - math.exp(log_snr_t - log_snr_s)
    assert deviation(0.0) == pytest.approx(math.sqrt(one_minus_r / (1 + math.exp(log_snr_s))), rel=1e-5)
    assert deviation(1.0) == pytest.approx(math.sqrt(one_minus_r / (1 + math.exp(log_snr_t))), rel=1e-5)
    assert deviation(0.5) == pytest.approx(math.sqrt(deviation(0.0) * deviation(1.0)), rel=1e-5)


def test_the_ancestral_sampler_says_that_it_needs_noise() -> None:
    with pytest.raises(ValueError, match="needs noise"):
        integrate(lambda z, log_snr: z, [-1.0, 1.0], torch.zeros(1, *SHAPE), sampler="ancestral")


@each_way
def test_a_sample_depends_on_its_own_seed_only(sampler: str, stochasticity: float) -> None:
    def draw(seeds: list[int]) -> Tensor:
        nodes, noise = SCHEDULE.steps(5), SeededNoise(seeds)
        return sample(lambda z, log_snr: 0.5 * z, nodes, noise, SHAPE, sampler=sampler, stochasticity=stochasticity)

    together, alone = draw([11, 12, 13]), draw([12])
    assert torch.equal(together[1], alone[0])
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(together, 2))


def test_the_temperature_is_the_deviation_of_the_noise() -> None:
    hot, cool = SeededNoise([3, 4]), SeededNoise([3, 4], temperature=0.25)
    for _ in range(2):
        assert torch.equal(cool(SHAPE), 0.25 * hot(SHAPE))


def test_callback_sees_every_step() -> None:
    seen: list[int] = []
    nodes = SCHEDULE.steps(4)
    sample(lambda z, _: z, nodes, SeededNoise([0]), SHAPE, callback=lambda step, x_hat: seen.append(step))
    assert seen == [0, 1, 2, 3]


class Counting:
    """A conditional denoiser that returns its condition and counts the calls and the volumes in them."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, z: Tensor, log_snr: float, condition: Tensor) -> Tensor:
        self.sizes.append(len(z))
        return z * 0 + condition


@pytest.mark.parametrize(
    ("options", "expected", "sizes"),
    [
        ({"scale": 0.0}, 1.0, [2]),  # no unconditional branch is paid for
        ({"scale": 1.5}, 2.5, [4]),
        ({"scale": -0.25}, 0.75, [4]),  # a part of the condition's effect
        ({"scale": 1.5, "split": True}, 2.5, [2, 2]),
        ({"scale": 1.5, "interval": (-1.0, 1.0)}, 2.5, [4]),
        ({"scale": 1.5, "interval": (0.5, 1.0)}, 1.0, [2]),
    ],
)
def test_guidance_extrapolates_and_costs_what_it_says(options: dict, expected: float, sizes: list[int]) -> None:
    denoise, z = Counting(), torch.randn(2, *SHAPE)
    condition, null = torch.ones(2, *SHAPE), torch.zeros(2, *SHAPE)
    torch.testing.assert_close(guide(denoise, condition, null, **options)(z, 0.0), expected * condition)
    assert denoise.sizes == sizes


def test_a_guidance_interval_saves_the_calls_outside_of_it() -> None:
    denoise, nodes = Counting(), SCHEDULE.steps(8)
    condition = torch.ones(2, *SHAPE)
    guided = guide(denoise, condition, 0 * condition, 1.0, (-2.0, 2.0), split=True)
    sample(guided, nodes, SeededNoise([0, 1]), SHAPE)
    inside = sum(-2 <= node <= 2 for node in nodes[:-1])
    assert 0 < inside < 8
    assert len(denoise.sizes) == 8 + inside
