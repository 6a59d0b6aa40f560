import pytest
import torch
from torch import Tensor, nn

from sadm_ray.model.layers import Convolution
from sadm_ray.model.mixed_precision import has_bfloat16, is_slower_alone

CPU = torch.device("cpu")


@pytest.mark.parametrize(("amx", "avx512", "fast"), [(True, True, True), (False, True, True), (False, False, False)])
def test_bfloat16_is_for_cpus_that_have_units_for_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool, fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert has_bfloat16(CPU) == fast


def fill_free_memory_with_infinities() -> None:
    """What is handed out next and never written to shows."""
    held = [torch.full((1 << power,), torch.inf) for power in range(8, 21) for _ in range(3)]
    del held


def gradients_of(layer: nn.Module, x: Tensor, outward: Tensor, *, bfloat16: bool) -> list[Tensor]:
    for tensor in (x, *layer.parameters()):
        tensor.grad = None
    fill_free_memory_with_infinities()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        y = layer(x)
    y.backward(outward.to(y.dtype))
    return [tensor.grad for tensor in (x, *layer.parameters()) if tensor.grad is not None]


@pytest.mark.skipif(not has_bfloat16(CPU), reason="bfloat16 is emulated here")
@pytest.mark.parametrize("grid", [(1, 4, 4), (2, 2, 2), (2, 2, 8), (2, 8, 8), (2, 5, 7), (3, 8, 8), (4, 16, 16)])
def test_gradients_in_bfloat16_are_those_in_float32(grid: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    layer = Convolution(32, 48).to(memory_format=torch.channels_last_3d)
    x, outward = torch.randn(4, 32, *grid, requires_grad=True), torch.randn(4, 48, *grid)
    exact = gradients_of(layer, x, outward, bfloat16=False)
    for _ in range(3):
        rough = gradients_of(layer, x, outward, bfloat16=True)
        assert len(rough) == len(exact) == 3
        for one, other in zip(rough, exact, strict=True):
            assert (one - other).norm() < 0.01 * other.norm()


@pytest.mark.parametrize(("grid", "slower"), [((1, 4, 4), True), ((4, 16, 40), True), ((16, 48, 8), False)])
def test_one_small_sample_is_convolved_beside_one_of_zeros(grid: tuple[int, int, int], slower: bool) -> None:
    """PyTorch takes longer for one such sample than for two; its result and gradients are those of the plain layer."""
    torch.manual_seed(0)
    layer, plain = Convolution(32, 48), nn.Conv3d(32, 48, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    x, outward = torch.randn(1, 32, *grid, requires_grad=True), torch.randn(1, 48, *grid)
    assert is_slower_alone(x) == slower
    assert not is_slower_alone(x.expand(2, -1, -1, -1, -1))
    assert not is_slower_alone(x.bfloat16())
    torch.testing.assert_close(layer(x), plain(x), atol=1e-5, rtol=1e-5)
    found, expected = (gradients_of(each, x, outward, bfloat16=False) for each in (layer, plain))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
