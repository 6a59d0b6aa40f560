import pytest
import torch
from torch.nn import functional as F

from sadm_ray.model.resizing import resized


@pytest.mark.parametrize("size", [(8, 16, 20), (3, 5, 7), (2, 2, 3), (1, 9, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_trilinear_with_its_gradient(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Up to rounding, also where products may be bfloat16."""
    volume = torch.rand(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    mine, theirs = volume.clone().requires_grad_(), volume.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = resized(mine, size)
    expected = F.interpolate(theirs, size=size, mode="trilinear")
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)
    weights = torch.rand(found.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=0.02 if dtype == torch.bfloat16 else 1e-5, rtol=0.02)


def test_the_same_size_is_the_same_volume() -> None:
    volume = torch.rand(1, 2, 3, 4, 5)
    assert resized(volume, (3, 4, 5)) is volume
