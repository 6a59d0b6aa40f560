import pytest
import torch

from sadm_ray.diffusion.noise_schedule import alpha_sigma, per_sample
from sadm_ray.diffusion.parameterization import diffuse, to_eps, to_v, to_x


@pytest.fixture
def process() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(5, 1, 2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    log_snr = torch.tensor([-9.0, -2.0, 0.0, 3.0, 9.0], dtype=torch.float64)
    alpha, sigma = (per_sample(a, x) for a in alpha_sigma(log_snr))
    return {"x": x, "eps": eps, "v": alpha * eps - sigma * x, "z": diffuse(x, eps, log_snr), "log_snr": log_snr}


@pytest.mark.parametrize("kind", ["x", "eps", "v"])
def test_every_prediction_is_converted_to_the_same_volume(process: dict[str, torch.Tensor], kind: str) -> None:
    z, log_snr = process["z"], process["log_snr"]
    torch.testing.assert_close(to_x(process[kind], kind, z, log_snr), process["x"])
    torch.testing.assert_close(to_v(process[kind], kind, z, log_snr), process["v"])
    torch.testing.assert_close(to_eps(process["x"], z, log_snr), process["eps"])
