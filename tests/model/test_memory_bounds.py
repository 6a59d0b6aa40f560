"""Large volumes go through the networks in parts: the same voxels, without what would grow with the square."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sadm_ray.config import ConditionerSettings, DenoiserSettings, ModelSettings, NetworkSettings, SamplingSettings
from sadm_ray.model import memory_bounds
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.displacement_field import warp
from sadm_ray.model.layers import SpatialAttention
from sadm_ray.model.memory_bounds import by_slabs, samples_at_once
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.registry import build_model

SHAPE = (24, 16, 16)


class Largest(TorchDispatchMode):
    """The most elements that any tensor of the block has."""

    elements = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        sizes = [each.numel() for each in tree_leaves(result) if isinstance(each, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def model_of(kind: str) -> SequenceModel:
    """All networks, none of whose layers is zero."""
    torch.manual_seed(0)
    network = {"widths": (16, 16), "blocks": 1, "heads": 2}
    settings = ModelSettings(
        kind=kind,
        difference_scale=0.1,
        prior=NetworkSettings(**network),
        frame_blending=True,
        conditioner=ConditionerSettings(widths=(8, 16), heads=2, layers=1, channels=4),
        denoiser=DenoiserSettings(patch=(2, 4, 4), **network),
    )
    model = build_model(ModelConfig(shape=SHAPE, model=settings)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("kind", ["sadm", "sadm_paper", "diffusion_only", "ddm"])
@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_parts_give_the_same_voxels(monkeypatch: pytest.MonkeyPatch, kind: str, sampler: str) -> None:
    model = model_of(kind)
    frames = torch.rand(2, 4, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    observed = torch.tensor([[True, True, False, True], [True, False, False, False]])
    encoded = model.observe(frames, observed, torch.linspace(0, 1, 4).expand(2, 4))
    wanted = torch.tensor([[0.6, 1.2, 0.4], [0.9, 0.3, 0.5]])
    sampling = SamplingSettings(num_steps=2, sampler=sampler)
    together = model.roll_out(encoded, wanted, range(6), sampling)
    # Two samples at a time: the middle part has one of either sequence. And the least number of slices in a slab.
    monkeypatch.setattr(memory_bounds, "VOXELS_AT_ONCE", 2 * frames[0, 0].numel())
    monkeypatch.setattr(memory_bounds, "VALUES_AT_ONCE", 1)
    again = model.observe(frames, observed, torch.linspace(0, 1, 4).expand(2, 4))
    in_parts = model.roll_out(again, wanted, range(6), sampling)
    torch.testing.assert_close(in_parts, together, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-2, "samples do not differ: parts could be swapped"


def test_large_volumes_go_one_by_one() -> None:
    assert samples_at_once((64, 256, 256)) == samples_at_once((128, 512, 512)) == 1
    assert samples_at_once((32, 128, 128)) == 8


def test_slabs_see_their_neighbours_and_the_true_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    blur = torch.nn.Sequential(*(torch.nn.Conv3d(1, 1, 3, padding=1, padding_mode="replicate") for _ in range(3)))
    volume, seen = torch.rand(1, 1, 30, 4, 4), []

    def counted(slab: Tensor) -> Tensor:
        seen.append(slab.shape[2])
        return blur(slab)

    whole = blur(volume)
    monkeypatch.setattr(memory_bounds, "VALUES_AT_ONCE", 1)
    with torch.no_grad():
        torch.testing.assert_close(by_slabs(counted, volume, reach=3), whole, atol=1e-6, rtol=0)
    assert seen == [15, 18, 9]
    by_slabs(counted, volume, reach=3)
    assert seen[3:] == [30], "in training nothing is cut"


def test_warping_in_slabs_looks_beyond_them(monkeypatch: pytest.MonkeyPatch) -> None:
    volume, field = torch.rand(2, 1, 12, 8, 8), 4.0 * torch.randn(2, 3, 12, 8, 8)
    whole = warp(volume, field)
    monkeypatch.setattr(memory_bounds, "VALUES_AT_ONCE", 1)
    with torch.no_grad():
        torch.testing.assert_close(warp(volume, field), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("training", [False, True])
def test_attention_over_space_makes_no_quadratic_matrix(layout: torch.memory_format, training: bool) -> None:
    attention = SpatialAttention(32, 4).to(memory_format=layout)
    x = torch.randn(1, 32, 8, 16, 16).to(memory_format=layout).requires_grad_(training)
    sites = x[0, 0].numel()
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]), Largest() as largest:
        with torch.set_grad_enabled(training):
            result = attention(x)
        if training:
            result.sum().backward()
    assert 0 < largest.elements < sites**2 / 8
