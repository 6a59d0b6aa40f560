import pytest
import torch

from sadm_ray.diffusion.objective import dropped, stratified_times, velocity_loss
from sadm_ray.diffusion.prediction import diffuse, to_eps, to_v, to_x
from sadm_ray.diffusion.schedule import alpha_sigma, per_sample


@pytest.fixture
def process() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(5, 1, 2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    log_snr = torch.tensor([-9.0, -2.0, 0.0, 3.0, 9.0], dtype=torch.float64)
    alpha, sigma = (per_sample(a, x) for a in alpha_sigma(log_snr))
    return {"x": x, "eps": eps, "v": alpha * eps - sigma * x, "z": diffuse(x, eps, log_snr), "log_snr": log_snr}


@pytest.mark.parametrize("kind", ["x", "eps", "v"])
def test_every_prediction_says_the_same(process: dict[str, torch.Tensor], kind: str) -> None:
    z, log_snr = process["z"], process["log_snr"]
    torch.testing.assert_close(to_x(process[kind], kind, z, log_snr), process["x"])
    torch.testing.assert_close(to_v(process[kind], kind, z, log_snr), process["v"])
    torch.testing.assert_close(to_eps(process["x"], z, log_snr), process["eps"])


def test_loss_is_the_error_of_v(process: dict[str, torch.Tensor]) -> None:
    x, eps, v, log_snr = (process[key] for key in ("x", "eps", "v", "log_snr"))
    assert velocity_loss(v, x, eps, log_snr).max() < 1e-18
    torch.testing.assert_close(velocity_loss(v + 0.1, x, eps, log_snr), torch.full((5,), 0.01, dtype=v.dtype))


def test_times_are_stratified() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        t = stratified_times(8, generator, torch.device("cpu"))
        assert sorted((t * 8).floor().int().tolist()) == list(range(8))


def test_dropout_has_its_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    rate = dropped(20_000, 0.1, generator, torch.device("cpu")).float().mean().item()
    assert rate == pytest.approx(0.1, abs=0.01)
    assert not dropped(100, 0.0, generator, torch.device("cpu")).any()
