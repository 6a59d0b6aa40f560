"""Structures that move with a displacement field."""

from __future__ import annotations

import torch

from sadm_ray.model.displacement_field import warp
from sadm_ray.model.moved_labels import fullest, move_shares, share_voxels

SHAPE = (6, 24, 24)


def shares() -> torch.Tensor:
    """A ball in a shell, of which each voxel on a border is filled in part."""
    d, h, w = torch.meshgrid(*(torch.arange(size) - (size - 1) / 2 for size in SHAPE), indexing="ij")
    away = ((2 * d) ** 2 + h**2 + w**2).sqrt()
    ball, whole = (6 - away + 0.5).clamp(0, 1), (9 - away + 0.5).clamp(0, 1)
    return torch.stack([ball, whole - ball])[None]


def test_without_motion_they_stay() -> None:
    found = move_shares(shares(), torch.zeros(1, 3, *SHAPE))
    torch.testing.assert_close(found, shares())
    torch.testing.assert_close(share_voxels(found), shares().double().sum(dim=(2, 3, 4)))


def test_they_move_as_their_image_does() -> None:
    """Of an image that is brighter by 1 in the ball and by 0.5 in the shell."""
    torch.manual_seed(0)
    field = torch.nn.functional.interpolate(torch.randn(1, 3, 2, 4, 4), SHAPE, mode="trilinear")
    image = shares()[:, :1] + 0.5 * shares()[:, 1:]
    moved = move_shares(shares(), field, at_once=1)
    torch.testing.assert_close(moved[:, :1] + 0.5 * moved[:, 1:], warp(image, field))
    torch.testing.assert_close(moved, move_shares(shares(), field))


def test_a_shift_keeps_volumes_and_moves_labels() -> None:
    field = torch.zeros(1, 3, *SHAPE)
    field[:, 2] = 2
    moved = move_shares(shares(), field)
    torch.testing.assert_close(share_voxels(moved), share_voxels(shares()), rtol=1e-5, atol=0)
    torch.testing.assert_close(fullest(moved)[..., :-2], fullest(shares())[..., 2:])


def test_a_contraction_shrinks_the_volume_as_it_should() -> None:
    """Each place looks up what lies a quarter farther out: in plane everything becomes 0.8 times as long."""
    h, w = torch.meshgrid(*(torch.arange(size) - (size - 1) / 2 for size in SHAPE[1:]), indexing="ij")
    field = torch.stack([torch.zeros(SHAPE), h.expand(SHAPE) / 4, w.expand(SHAPE) / 4])[None]
    ratio = share_voxels(move_shares(shares(), field)) / share_voxels(shares())
    torch.testing.assert_close(ratio, torch.full((1, 2), 0.64, dtype=torch.float64), rtol=0.02, atol=0)


def test_a_voxel_has_the_label_that_fills_the_most_of_it() -> None:
    some = torch.tensor([[0.6, 0.3], [0.2, 0.3], [0.1, 0.2]]).T.reshape(1, 2, 1, 1, 3)
    assert fullest(some).flatten().tolist() == [1, 0, 0]
    assert fullest(torch.tensor([0.3, 0.5]).reshape(1, 2, 1, 1, 1)).item() == 2
