"""Registration of two frames."""

import pytest
import torch

from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.model import registration
from sadm_ray.model.displacement_field import LEAP, motion_channels, motion_residual, warp
from sadm_ray.model.registration import RegisteredPairs, aligned, register
from sadm_ray.model.slices import warp_within_slices
from sadm_ray.model.time_warp import TimeWarp

AWAY = torch.tensor([0.0, 3.0, -4.0])
"""Where the second ball lies from the first, in voxels d h w."""


def ball(by: torch.Tensor, size: tuple[int, int, int] = (8, 32, 32)) -> torch.Tensor:
    """A soft ball in the middle of so many voxels, moved."""
    places = torch.stack(torch.meshgrid(*(torch.arange(float(length)) for length in size), indexing="ij"), dim=-1)
    squared = (places - (torch.tensor(size) - 1.0) / 2.0 - by).square().sum(-1)
    return torch.exp(-squared / 50.0)[None, None]


def shift(first: torch.Tensor, second: torch.Tensor) -> list[float]:
    """How far the second lies from the first where the two are, as registration finds it."""
    # first(x + u/2) = second(x − u/2) = first(x − u/2 − by)
    weight = first + second
    return [-((along * weight).sum() / weight.sum()).item() for along in register(first, second).unbind(dim=1)]


def pair(time: float) -> ReferenceFrames:
    """The two balls, a unit of time apart, and a target at `time`."""
    share = min(max(time, 0.0), 1.0)
    frames = torch.stack([ball(0 * AWAY), ball(AWAY)], dim=1)
    return ReferenceFrames(frames, torch.tensor([[-time, 1.0 - time]]), torch.tensor([[1.0 - share, share]]))


def seen(references: ReferenceFrames, time: float) -> ReferenceFrames:
    field = RegisteredPairs().field_of(references, torch.tensor([[0, 1]]))
    return aligned(references, field, torch.tensor([time]), TimeWarp(1.0))


def error(volume: torch.Tensor, truth: torch.Tensor) -> float:
    return (volume - truth).square().mean().sqrt().item()


def test_a_shift_is_found() -> None:
    first, second = ball(0 * AWAY), ball(AWAY)
    assert shift(first, second) == pytest.approx(AWAY.tolist(), abs=0.5)
    field = register(first, second)
    assert error(warp(first, field / 2), warp(second, -field / 2)) < 0.1 * error(first, second)


def test_the_shift_of_what_is_faint_is_found() -> None:
    """No two intensities differ by more than `NOISE`."""
    found = shift(0.1 * ball(0 * AWAY), 0.1 * ball(AWAY))
    assert all(abs(along) >= 0.6 * abs(by) for along, by in zip(found, AWAY.tolist(), strict=True))


def test_nothing_is_followed_from_one_thick_slice_to_the_next() -> None:
    up = torch.tensor([2.0, 0.0, 0.0])
    few, many = (8, 32, 32), (24, 32, 32)
    assert shift(ball(0 * up, few), ball(up, few))[0] == 0.0
    assert shift(ball(0 * up, many), ball(up, many))[0] >= 0.6 * up[0]


def test_the_order_turns_the_sign_and_nothing_moves_between_the_same() -> None:
    first, second = torch.rand(2, 1, 1, 6, 20, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(register(second, first), -register(first, second))
    assert not register(first, first).any()


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 5, 7), (3, 33, 20), (16, 16, 16)])
def test_any_size_and_several_channels(size: tuple[int, ...]) -> None:
    first, second = torch.rand(2, 2, 3, *size, generator=torch.Generator().manual_seed(0))
    field = register(first, second)
    assert field.shape == (2, 3, *size)
    assert field.isfinite().all()


@pytest.mark.parametrize("time", [0.25, 0.5, 0.75])
def test_in_between_the_frames_meet_where_the_target_is(time: float) -> None:
    truth, references = ball(time * AWAY), pair(time)
    assert error(seen(references, time).reference, truth) < 0.25 * error(references.reference, truth)


def test_at_a_frame_it_stays_as_it_is() -> None:
    for time, place in ((0.0, 0), (1.0, 1)):
        torch.testing.assert_close(seen(pair(time), time).reference, pair(time).frames[:, place])


@pytest.mark.parametrize("backwards", [False, True])
def test_beyond_the_frames_the_motion_can_go_on(backwards: bool) -> None:
    """Before the first or after the second frame both look like the nearest, and the shift of time moves it on."""
    time = -0.5 if backwards else 1.5
    references = seen(pair(time), time)
    nearest = references.frames[:, 0 if backwards else 1]
    assert torch.equal(references.reference, nearest)
    other = references.frames[:, 1 if backwards else 0]
    assert error(other, nearest) < 0.25 * error(pair(time).frames[:, 0], pair(time).frames[:, 1])
    on = torch.zeros(1, motion_channels(2), 8, 32, 32)
    on[:, -1] = (-1.0 if backwards else 1.0) / LEAP
    reach = motion_residual(
        references.frames, references.time_from_target, references.weights, on, references.displacement
    )
    truth = ball(time * AWAY)
    assert error(nearest + reach, truth) < 0.4 * error(nearest, truth)


def test_a_pair_is_registered_once_for_all_targets_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two sequences the second's pair changes with the second target."""
    asked: list[int] = []

    def counted(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        asked.append(len(first))
        return register(first, second)

    monkeypatch.setattr(registration, "register", counted)
    frames = torch.stack([torch.cat([ball(0 * AWAY), ball(AWAY)]), torch.cat([ball(AWAY), ball(0 * AWAY)])])
    pairs, weights = RegisteredPairs(), torch.tensor([[0.5, 0.5]]).expand(2, -1)
    for time, second in ((0.3, [0, 1]), (0.6, [0, 1]), (0.9, [1, 1])):
        places = torch.tensor([[0, 1], second])
        times = places.float() - time
        references = ReferenceFrames(frames[torch.arange(2)[:, None], places], times, weights)
        field = pairs.field_of(references, places)
        torch.testing.assert_close(field, RegisteredPairs().field_of(references, places))
    assert asked == [2, 2, 2, 1, 2]  # each second one is that of the comparison
    assert not field[1].any()


@pytest.mark.parametrize("size", [(8, 32, 32), (32, 8, 32), (32, 32, 8), (20, 24, 28)])
def test_slices_may_lie_along_any_axis(size: tuple[int, int, int]) -> None:
    """What is found within slices is the same whichever axis runs across them, and warps alike as images."""
    random = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.avg_pool3d(torch.rand(2, 1, *size, generator=random), 5, 1, 2)
    first, second = 3.0 * smooth - 1.0
    field = register(first[None], second[None])
    across = size.index(min(size)) if min(size) < 16 else None
    for axis in range(3):
        assert bool(field[:, axis].any()) == (axis != across)
    torch.testing.assert_close(warp_within_slices(first[None], field), warp(first[None], field), atol=1e-5, rtol=0)
    turned = register(first[None].transpose(2, 4), second[None].transpose(2, 4))
    torch.testing.assert_close(turned.transpose(2, 4).flip(1), field, atol=1e-4, rtol=0)


def test_frames_of_nan_have_no_gradient_that_ends_the_process() -> None:
    first = ball(0 * AWAY).requires_grad_()
    field = torch.full((1, 3, 8, 32, 32), torch.nan)
    warp_within_slices(first, field).sum().backward()
    assert first.grad is not None


def test_a_frame_that_is_alone_is_not_moved() -> None:
    frames = torch.rand(1, 1, 1, 4, 8, 8).expand(-1, 2, -1, -1, -1, -1)
    alone = seen(ReferenceFrames(frames, torch.full((1, 2), -0.5), torch.tensor([[1.0, 0.0]])), 0.5)
    assert torch.equal(alone.frames, frames)
    assert alone.displacement is not None
    assert not alone.displacement.any()
