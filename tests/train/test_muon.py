import pytest
import torch
from torch import nn

from sadm_ray.train.muon import Muon, orthogonalised

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def weights() -> list[nn.Parameter]:
    """A tall, a wide and a square one, and one that gets no gradient."""
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=random)) for size in ((24, 8), (8, 24), (16, 16), (4, 4))]


def steps(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], count: int = 5) -> None:
    random = torch.Generator().manual_seed(1)
    for _ in range(count):
        for p in parameters[:-1]:
            p.grad = torch.randn(p.shape, generator=random)
        for group in optimizer.param_groups:
            group["lr"] = 0.02
        optimizer.step()


def test_it_goes_where_pytorch_goes() -> None:
    """Up to the three digits that bfloat16 has; what it remembers is the same."""
    ours, theirs, before = weights(), weights(), weights()
    one = Muon(ours, weight_decay=0.5)
    other = torch.optim.Muon(theirs, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
    steps(one, ours)
    steps(other, theirs)
    for mine, its, start in zip(ours[:-1], theirs[:-1], before[:-1], strict=True):
        assert (mine - its).norm() < 0.03 * (its - start).norm()
        torch.testing.assert_close(one.state[mine]["momentum_buffer"], other.state[its]["momentum_buffer"])
    assert torch.equal(ours[-1], before[-1])


def directly(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """The iteration as it is written down, in float64."""
    x, (a, b, c) = matrix.double() / matrix.norm(), COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x


@pytest.mark.parametrize("size", [(6, 40), (40, 6), (12, 12)])
def test_it_is_the_iteration_of_newton_and_schulz(size: tuple[int, int]) -> None:
    """Also of a matrix with two directions and noise of a ten-thousandth."""
    random = torch.Generator().manual_seed(3)
    full = torch.randn(size, generator=random)
    few = torch.randn(size[0], 2, generator=random) @ torch.randn(2, size[1], generator=random) + 1e-4 * full
    for matrix in (full, few):
        expected = directly(matrix, 5)
        assert (orthogonalised(matrix, COEFFICIENTS, 5, 1e-7) - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("size", [(6, 40), (40, 6), (12, 12)])
def test_all_directions_become_as_long(size: tuple[int, int]) -> None:
    matrix = torch.randn(size, generator=torch.Generator().manual_seed(2))
    made = orthogonalised(matrix, COEFFICIENTS, steps=5, eps=1e-7)
    lengths = torch.linalg.svdvals(made)
    assert 0.5 < lengths.min() < lengths.max() < 1.3
    assert torch.allclose(matrix.T @ made, made.T @ matrix, atol=0.05 * float(matrix.norm()) ** 2), "turned"


def test_no_gradient_is_no_direction() -> None:
    assert torch.equal(orthogonalised(torch.zeros(3, 5), COEFFICIENTS, steps=5, eps=1e-7), torch.zeros(3, 5))
