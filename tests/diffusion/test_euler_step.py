import math

import pytest
import torch

from sadm_ray.diffusion.parameterization import to_x
from sadm_ray.diffusion.preconditioning import preconditioned_v
from sadm_ray.diffusion.samplers import SeededNoise, sample

SHAPE = (1, 2, 4, 4)
NODES = [-15.0, -6.0, -2.0, 1.0, 9.0]


def gaussian(deviation: float) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.linspace(-1, 1, 32).view(1, *SHAPE)
    return mean, torch.full_like(mean, 2.0 * math.log(deviation))


@pytest.mark.parametrize("deviation", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_gaussian_is_drawn_exactly_however_few_the_steps_are(deviation: float, steps: int) -> None:
    mean, log_variance = gaussian(deviation)

    def denoise(z: torch.Tensor, log_snr: float) -> torch.Tensor:
        levels = torch.full((1,), log_snr)
        v = preconditioned_v(torch.zeros_like(z), mean, log_variance, z, levels)
        return to_x(v, "v", z, levels)

    nodes, noise = [*NODES[:steps], NODES[-1]], SeededNoise([3])
    x = sample(denoise, nodes, noise, SHAPE, sampler="euler", gaussian=(mean, log_variance))
    torch.testing.assert_close(x, mean + deviation * SeededNoise([3])(SHAPE), atol=1e-4, rtol=1e-4)


def test_what_is_certain_is_drawn_without_noise() -> None:
    """The truth is one volume: the correction v takes the noise away."""
    mean, log_variance = gaussian(0.5)
    truth = mean + 0.3

    def error(steps: int) -> float:
        nodes = torch.linspace(-15.0, 12.0, steps + 1).tolist()
        x = sample(
            lambda z, log_snr: truth, nodes, SeededNoise([1]), SHAPE, sampler="euler", gaussian=(mean, log_variance)
        )
        return float((x - truth).abs().mean())

    assert error(8) < 0.05 * error(1)
    assert error(32) < 1e-4


def test_without_a_gaussian_it_is_ddim() -> None:
    def denoise(z: torch.Tensor, log_snr: float) -> torch.Tensor:
        return 0.5 * z

    drawn = [sample(denoise, NODES, SeededNoise([1]), SHAPE, sampler=name) for name in ("euler", "ddim")]
    assert torch.equal(*drawn)


def test_noise_that_is_kept_is_the_same_at_every_call() -> None:
    noise = SeededNoise([1, 2])
    kept = noise.kept((3,))
    other = noise((3,))
    assert torch.equal(noise.kept((3,)), kept)
    assert not torch.equal(other, kept)
