import pytest
import torch

from sadm_ray.diffusion.loss import loss_weight, velocity_loss
from sadm_ray.diffusion.parameterization import diffuse, to_eps, to_v, to_x

LOG_SNR = torch.tensor([-9.0, -2.0, 0.0, 3.0, 9.0], dtype=torch.float64)


@pytest.fixture
def process() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, eps, x_hat = (torch.randn(5, 1, 2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    z = diffuse(x, eps, LOG_SNR)
    return {"x": x, "eps": eps, "z": z, "x_hat": x_hat, "v_hat": to_v(x_hat, "x", z, LOG_SNR)}


def mean(error: torch.Tensor) -> torch.Tensor:
    return error.square().flatten(1).mean(dim=1)


def test_the_loss_is_the_error_of_v(process: dict[str, torch.Tensor]) -> None:
    right = to_v(process["x"], "x", process["z"], LOG_SNR)
    assert velocity_loss(right, process["x"], process["eps"], LOG_SNR).max() < 1e-18
    off = velocity_loss(right + 0.1, process["x"], process["eps"], LOG_SNR)
    torch.testing.assert_close(off, torch.full((5,), 0.01, dtype=off.dtype))


def test_weights_are_those_of_their_papers(process: dict[str, torch.Tensor]) -> None:
    """Each weighting of the error of v equals its paper's weighting of the error of x or of ε."""
    loss = velocity_loss(process["v_hat"], process["x"], process["eps"], LOG_SNR)
    x_error = mean(to_x(process["v_hat"], "v", process["z"], LOG_SNR) - process["x"])
    eps_error = mean(to_eps(process["x_hat"], process["z"], LOG_SNR) - process["eps"])
    snr = LOG_SNR.exp()
    expected = {
        ("v", 0.0): (snr + 1) * x_error,
        ("min-snr", 5.0): snr.clamp(max=5) * x_error,
        ("sigmoid", -1.0): torch.sigmoid(-1 - LOG_SNR) * eps_error,
    }
    for (kind, parameter), value in expected.items():
        torch.testing.assert_close(loss * loss_weight(kind, LOG_SNR, parameter), value)
