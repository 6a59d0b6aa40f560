import pytest
import torch
from torch import Tensor, nn

from sadm_ray.model.layers import Convolution
from sadm_ray.model.mixed_precision import has_bfloat16

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
