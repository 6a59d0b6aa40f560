import math

import pytest
import torch

from sadm_ray.diffusion.loss import velocity_loss
from sadm_ray.diffusion.noise_schedule import alpha_sigma, per_sample
from sadm_ray.diffusion.parameterization import diffuse, to_x
from sadm_ray.diffusion.preconditioning import expected_loss, preconditioned_v, standardised

LOG_SNR = torch.tensor([-12.0, -3.0, 0.0, 4.0, 12.0], dtype=torch.float64)


@pytest.fixture
def volumes() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(5, 1, 2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(4))


def test_it_is_the_posterior_mean_of_a_gaussian(volumes: tuple[torch.Tensor, ...]) -> None:
    z, mean, log_variance, _ = volumes
    alpha, sigma = (per_sample(a, z) for a in alpha_sigma(LOG_SNR))
    variance = log_variance.exp()
    # By precisions: the prior's 1/s² at μ, the observation's α²/σ² at z/α.
    expected = (mean / variance + alpha * z / sigma**2) / (1 / variance + alpha**2 / sigma**2)
    v = preconditioned_v(torch.zeros_like(z), mean, log_variance, z, LOG_SNR)
    torch.testing.assert_close(to_x(v, "v", z, LOG_SNR), expected)


def test_unit_variance_is_plain_v_prediction(volumes: tuple[torch.Tensor, ...]) -> None:
    z, mean, _, v_net = volumes
    sigma = torch.sigmoid(-LOG_SNR).sqrt()[:, None, None, None, None]
    plain = preconditioned_v(v_net, mean, torch.zeros_like(z), z, LOG_SNR)
    torch.testing.assert_close(plain, v_net - sigma * mean)
    moved = to_x(plain, "v", z, LOG_SNR) - to_x(v_net, "v", z, LOG_SNR)
    torch.testing.assert_close(moved, sigma**2 * mean)


def test_what_is_standardised_has_unit_variance_and_the_loss_that_is_expected() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, log_variance = torch.full((5, 1, 8, 64, 64), 0.7), torch.full((5, 1, 8, 64, 64), -1.5)
    x, eps = (torch.randn(mean.shape, generator=generator) for _ in range(2))
    x = mean + (0.5 * log_variance).exp() * x
    log_snr = LOG_SNR.float()
    z = diffuse(x, eps, log_snr)
    spread = standardised(z, mean, log_variance, log_snr).flatten(1)
    torch.testing.assert_close(spread.std(dim=1), torch.ones(5), atol=0.02, rtol=0)
    torch.testing.assert_close(spread.mean(dim=1), torch.zeros(5), atol=0.02, rtol=0)
    best = preconditioned_v(torch.zeros_like(z), mean, log_variance, z, log_snr)
    seen = velocity_loss(best, x, eps, log_snr)
    torch.testing.assert_close(seen, expected_loss(torch.full((5,), math.exp(-1.5)), log_snr), rtol=0.03, atol=0)


def test_a_voxel_that_keeps_still_ignores_the_noise(volumes: tuple[torch.Tensor, ...]) -> None:
    z, _, _, v_net = volumes
    v = preconditioned_v(v_net, torch.zeros_like(z), torch.full_like(z, -1e9), z, LOG_SNR)
    x_hat = to_x(v, "v", z, LOG_SNR)
    assert torch.isfinite(x_hat).all()
    assert x_hat[:3].abs().max() < 0.02  # down to λ = 0; the variance is bounded below, and so is the trust in it
