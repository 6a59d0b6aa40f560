from __future__ import annotations

import math

import pytest
import torch

from sadm_ray.config import AugmentSettings
from sadm_ray.data.load.augmentation import _shifted, _turned, augment
from sadm_ray.data.load.rng import SampleRng

FRAMES = torch.rand(4, 3, 1, 4, 6, 8, generator=torch.Generator().manual_seed(0))

STILL = torch.zeros(4, 2, dtype=torch.long)


def rng(seed: int = 0) -> SampleRng:
    return SampleRng(seed, 0, range(4), 4)


def augmented(seed: int = 0, **settings: object) -> torch.Tensor:
    return augment(FRAMES, AugmentSettings(**settings), rng(seed))  # type: ignore[arg-type]


def test_nothing_is_changed_by_default() -> None:
    assert augment(FRAMES, AugmentSettings(), rng()) is FRAMES


def test_a_sure_flip_is_a_flip_of_every_frame() -> None:
    assert torch.equal(augmented(flip=(1, 0, 0)), FRAMES.flip(-3))
    assert torch.equal(augmented(flip=(0, 1, 1)), FRAMES.flip(-2, -1))


def test_shifts_move_whole_sequences_and_repeat_the_border() -> None:
    moved = augmented(shift=(0, 0, 0.5))
    for sequence, original in zip(moved, FRAMES, strict=True):
        matches = [
            by for by in range(-4, 5) if torch.equal(sequence, original[..., (torch.arange(8) - by).clamp(0, 7)])
        ]
        assert matches, "one shift serves all frames of a sequence"
    assert len({tuple(sequence.flatten().tolist()) for sequence in moved}) == 4


def test_a_turn_is_one_of_every_slice_about_its_middle() -> None:
    square = torch.rand(4, 3, 1, 2, 9, 9, generator=torch.Generator().manual_seed(1))
    quarter = _turned(square, torch.full((4,), math.pi / 2), torch.ones(4), STILL)
    assert any(torch.allclose(quarter, square.rot90(k, (-2, -1)), atol=1e-5) for k in (1, 3))
    oblong = _turned(FRAMES, torch.full((4,), math.pi), torch.ones(4), STILL)
    torch.testing.assert_close(oblong, FRAMES.flip(-2, -1), atol=1e-5, rtol=0)
    point = torch.zeros(1, 1, 1, 1, 9, 17)
    point[..., 4, 12] = 1  # 4 to the right of the middle goes 4 up or down, on an oblong grid too
    moved = _turned(point, torch.full((1,), math.pi / 2), torch.ones(1), STILL[:1])
    assert moved[0, 0, 0, 0, :, 8].argmax() in (0, 8)
    larger = _turned(point, torch.zeros(1), torch.full((1,), 1.5), STILL[:1])
    assert larger[0, 0, 0, 0, 4].argmax() == 14


def test_turning_keeps_to_the_intensities_of_each_slice_whatever_they_are() -> None:
    """A z-scored scan goes beyond [0, 1]."""
    angles, factors = torch.linspace(-0.3, 0.3, 4), torch.linspace(0.9, 1.1, 4)
    turned = _turned(FRAMES, angles, factors, STILL)
    torch.testing.assert_close(_turned(4.0 * FRAMES - 2.0, angles, factors, STILL), 4.0 * turned - 2.0)
    assert (turned.amax(dim=(-1, -2)) <= FRAMES.amax(dim=(-1, -2))).all()
    assert (turned.amin(dim=(-1, -2)) >= FRAMES.amin(dim=(-1, -2))).all()


def test_turning_and_shifting_at_once_is_turning_and_then_shifting() -> None:
    wide = torch.rand(3, 2, 1, 4, 15, 20, generator=torch.Generator().manual_seed(2))
    angles, factors = torch.full((3,), 0.3), torch.full((3,), 1.1)
    shifts = torch.tensor([[0, 1, -3], [0, 0, 2], [0, -2, 0]])
    still = torch.zeros(3, 2, dtype=torch.long)
    together = _turned(wide, angles, factors, shifts[:, 1:])
    apart = _shifted(_turned(wide, angles, factors, still), shifts)
    inside = (..., slice(3, -3), slice(3, -3))  # the one repeats the border before, the other after it was turned
    torch.testing.assert_close(together[inside], apart[inside], atol=1e-5, rtol=0)


def test_intensities_change_alike_in_all_frames() -> None:
    scaled = augmented(gain=0.2, offset=0.1)
    for sequence, original in zip(scaled, FRAMES, strict=True):
        gain = (sequence[1] - sequence[0]) / (original[1] - original[0])
        assert gain.std() < 1e-3
        assert 0.8 <= gain.mean() <= 1.2
        assert (sequence - gain.mean() * original).mean().abs() <= 0.1 + 1e-4


@pytest.mark.parametrize(
    "settings", [{"flip": (0.5, 0.5, 0.5)}, {"shift": (0.2, 0.2, 0.2)}, {"turn": 30, "zoom": 0.1}, {"gain": 0.3}]
)
def test_draws_come_from_the_seed(settings: dict[str, object]) -> None:
    assert torch.equal(augmented(1, **settings), augmented(1, **settings))
    assert not torch.equal(augmented(1, **settings), augmented(2, **settings))
