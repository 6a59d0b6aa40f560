"""The time warp, which is learned."""

import math

import torch

from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.model.registration import aligned
from sadm_ray.model.time_warp import TimeWarp, reference_loss


def test_untrained_the_rate_is_constant() -> None:
    start, end = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.25, 0.5, 0.5])
    torch.testing.assert_close(TimeWarp(1.0)(start, end), end - start)


def test_it_never_runs_backwards() -> None:
    time_warp, times = TimeWarp(2.0), torch.linspace(0.0, 3.0, 20)
    torch.nn.init.normal_(time_warp.log_rate[-1].weight, std=0.1)
    passed = time_warp(torch.zeros(20), times)
    assert (passed.diff() > 0).all()
    torch.testing.assert_close(time_warp(times, torch.zeros(20)), -passed)


def test_a_slow_start_is_learned_from_what_is_seen_in_between() -> None:
    """The second frame is brighter than the first, and halfway in time a quarter of the change has happened."""
    torch.manual_seed(0)
    time_warp, frames = TimeWarp(1.0), torch.tensor([0.2, 0.6]).view(1, 2, 1, 1, 1, 1).expand(1, 2, 1, 1, 8, 8)
    halfway = ReferenceFrames(frames, torch.tensor([[-0.5, 0.5]]), torch.tensor([[0.5, 0.5]]))
    field, optimizer = torch.zeros(1, 3, 1, 8, 8), torch.optim.Adam(time_warp.parameters(), 1e-3)
    for _ in range(200):
        loss = (aligned(halfway, field, torch.tensor([0.5]), time_warp).reference - 0.3).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights = aligned(halfway, field, torch.tensor([0.5]), time_warp).weights
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25]]), atol=0.02, rtol=0)


def test_halving_the_error_lowers_the_loss_by_log_two() -> None:
    target = torch.full((2, 1, 1, 4, 4), 0.5)
    off = torch.tensor([0.2, 0.02]).view(2, 1, 1, 1, 1)
    loss, halved = (reference_loss(target + part * off, target) for part in (1.0, 0.5))
    torch.testing.assert_close(loss - halved, torch.full((2,), math.log(2.0)), atol=0.05, rtol=0)
    assert not reference_loss(target, target).any()
