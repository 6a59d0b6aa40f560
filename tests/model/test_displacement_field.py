import torch

from sadm_ray.model.displacement_field import warp


def test_no_displacement_changes_nothing() -> None:
    volume = torch.rand(2, 1, 3, 4, 5)
    torch.testing.assert_close(warp(volume, torch.zeros(2, 3, 3, 4, 5)), volume)


def test_a_whole_voxel_shifts_along_its_own_axis() -> None:
    volume = torch.rand(1, 1, 4, 5, 6)
    for axis in range(3):
        field = torch.zeros(1, 3, 4, 5, 6)
        field[:, axis] = 1.0
        size = volume.shape[2 + axis]
        expected = volume.index_select(2 + axis, torch.arange(1, size + 1).clamp(max=size - 1))  # the border repeats
        torch.testing.assert_close(warp(volume, field), expected)


def test_half_a_voxel_is_the_mean_of_two() -> None:
    volume = torch.rand(1, 1, 2, 2, 6)
    field = torch.zeros(1, 3, 2, 2, 6)
    field[:, 2] = 0.5
    torch.testing.assert_close(warp(volume, field)[..., :-1], 0.5 * (volume[..., :-1] + volume[..., 1:]))
