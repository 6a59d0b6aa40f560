"""The models of the settings files, on small volumes: each can be trained and sampled by the same code."""

from pathlib import Path

import pytest
import torch

from sadm_ray.config.settings_file import load_settings
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.registry import build_model

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["phantom", "acdc_small", "acdc", "acdc_paper", "brain"])
def test_it_can_be_trained_and_sampled(name: str) -> None:
    torch.manual_seed(0)
    settings = load_settings(CONFIGS / f"{name}.yaml")
    shape = (8, 16, 16) if settings.model.patch[0] <= 4 else (8, 32, 32)
    model = build_model(ModelConfig(shape=shape, model=settings.model, diffusion=settings.diffusion))
    frames, times = torch.rand(1, 3, 1, *shape), torch.tensor([[0.0, 0.4, 1.0]])
    observed = torch.tensor([[True, True, False]])
    eps = torch.randn(1, *model.noise_size(shape))
    loss = model(frames, observed, times, frames[:, 2], times[:, 2], torch.tensor([0.5]), eps).mean()
    loss.backward()
    assert torch.isfinite(loss)
    sampling = settings.sampling.model_copy(update={"num_steps": 3})
    assert torch.isfinite(model.generate(frames, observed, times, times[:, 2:], [0], sampling)).all()


def test_the_paper_model_is_the_papers() -> None:
    settings = load_settings(CONFIGS / "acdc_paper.yaml")
    assert (settings.model.target, settings.model.prior) == ("volume", None)
    assert settings.model.denoiser.patch == (1, 1, 1)
    assert settings.sampling.sampler == "ancestral"
    assert (settings.data.frames, settings.data.shape) == (12, (32, 128, 128))
