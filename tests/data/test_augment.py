from __future__ import annotations

import pytest
import torch

from sadm_ray.config import AugmentSettings
from sadm_ray.data.augment import augment
from sadm_ray.data.chance import Chance

FRAMES = torch.rand(4, 3, 1, 4, 6, 8, generator=torch.Generator().manual_seed(0))


def chance(seed: int = 0) -> Chance:
    return Chance(seed, 0, range(4), 4)


def augmented(seed: int = 0, **settings: object) -> torch.Tensor:
    return augment(FRAMES, AugmentSettings(**settings), chance(seed))  # type: ignore[arg-type]


def test_nothing_is_changed_by_default() -> None:
    assert augment(FRAMES, AugmentSettings(), chance()) is FRAMES


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


def test_intensities_change_alike_in_all_frames() -> None:
    scaled = augmented(gain=0.2, offset=0.1)
    for sequence, original in zip(scaled, FRAMES, strict=True):
        gain = (sequence[1] - sequence[0]) / (original[1] - original[0])
        assert gain.std() < 1e-3
        assert 0.8 <= gain.mean() <= 1.2
        assert (sequence - gain.mean() * original).mean().abs() <= 0.1 + 1e-4


@pytest.mark.parametrize("settings", [{"flip": (0.5, 0.5, 0.5)}, {"shift": (0.2, 0.2, 0.2)}, {"gain": 0.3}])
def test_draws_come_from_the_seed(settings: dict[str, object]) -> None:
    assert torch.equal(augmented(1, **settings), augmented(1, **settings))
    assert not torch.equal(augmented(1, **settings), augmented(2, **settings))
