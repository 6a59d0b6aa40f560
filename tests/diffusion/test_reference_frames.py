from dataclasses import fields, replace

import pytest
import torch

from sadm_ray.diffusion.reference_frames import ReferenceFrames, nearest_observed, neighbours_observed
from sadm_ray.diffusion.residual import Residual
from sadm_ray.diffusion.rollout import rollout_order


@pytest.mark.parametrize("target", [Residual("volume"), Residual("difference", scale=0.07)])
def test_decode_inverts_encode(target: Residual) -> None:
    volume, reference = torch.rand(2, 2, 1, 3, 4, 5)
    torch.testing.assert_close(target.decode(target.encode(volume, reference), reference), volume)


def test_no_difference_is_the_reference() -> None:
    reference = torch.rand(2, 1, 3, 4, 5)
    assert torch.equal(Residual("difference", 0.1).decode(torch.zeros_like(reference), reference), reference)


def test_nearest_observed_is_in_time_not_in_order() -> None:
    times = torch.tensor([[0.0, 0.25, 0.75, 1.0]]).expand(3, 4)
    observed = torch.tensor([[True, True, False, False], [True, False, False, True], [True, True, True, False]])
    assert nearest_observed(observed, times, torch.tensor([0.875, 0.45, 0.5])).tolist() == [1, 0, 1]


def test_rollout_goes_from_the_known_outwards() -> None:
    assert rollout_order([0, 1, 2], [5, 3, 4]) == [1, 2, 0]  # 3, 4, 5
    assert rollout_order([0, 10], [5, 9, 2, 12]) == [0, 2, 1, 3]  # the middle, then 2 and 9, then onwards
    assert rollout_order([0, 8], list(range(1, 8))) == [3, 1, 5, 0, 2, 4, 6], "gaps are halved"
    assert rollout_order([0], [0.25, -0.25]) == [1, 0]  # equally near: the earlier first
    assert rollout_order([3.5], []) == []


def test_neighbours_are_the_observed_frames_on_both_sides() -> None:
    observed = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)
    times = torch.tensor([[0.0, torch.nan, 2.0, 3.0], *[[0.0, 1.0, 2.0, 3.0]] * 3])
    places, weights = neighbours_observed(observed, times, torch.tensor([1.5, 3.0, 0.0, 2.0]))
    assert places.tolist() == [[0, 2], [1, 0], [3, 2], [2, 3]]
    assert weights.tolist() == [[0.25, 0.75], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]


def test_on_one_side_the_second_frame_is_far_enough_behind() -> None:
    times = torch.arange(12.0).expand(5, 12)
    observed = torch.zeros(5, 12, dtype=torch.bool)
    for row, seen in enumerate(((0, 3, 6), range(7), (3, 4), (0, 3, 4), (4, 7, 11))):
        observed[row, list(seen)] = True
    places, weights = neighbours_observed(observed, times, torch.tensor([11.0, 11.0, 11.0, 11.0, 0.0]))
    assert places.tolist() == [[6, 3], [6, 5], [4, 3], [4, 0], [7, 4]]
    assert weights.tolist() == [[1.0, 0.0]] * 4 + [[0.0, 1.0]]


def test_chosen_targets_keep_every_field() -> None:
    count, size = 3, (2, 4, 4)
    known = ReferenceFrames(
        torch.rand(count, 2, 1, *size),
        torch.tensor([[-0.5, 0.5], [-0.5, -1.0], [-0.2, 0.3]]),
        torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.6, 0.4]]),
        torch.tensor([0.0, 3.0, -4.0]).view(1, 3, 1, 1, 1).expand(count, 3, *size),
        torch.rand(count, 1, *size),
        torch.tensor([[[True], [False]], [[False], [True]], [[True], [True]]]),
        torch.rand(count, 2, 1),
        torch.tensor([[0, 1], [2, 2], [1, 3]]),
    )
    assert known.is_between.tolist() == [True, False, True]
    torch.testing.assert_close(known.distance[:, 0, 0, 0, 0], torch.tensor([5.0, 2.5, 2.5]))
    chosen, twice, same = known.rows(torch.tensor([2, 0])), known.of([0, 0, 1, 1, 2, 2]), known.of([1, 1])
    for field in fields(ReferenceFrames):
        every = getattr(known, field.name)
        torch.testing.assert_close(getattr(chosen, field.name), every[[2, 0]])
        torch.testing.assert_close(getattr(twice, field.name), every[[0, 0, 1, 1, 2, 2]])
        torch.testing.assert_close(getattr(same, field.name), every[[1, 1]])
    alone = replace(known, time_from_target=known.time_from_target[:, :1].expand(-1, 2))
    assert not alone.is_between.any(), "the same frame twice, whatever its weights"
    unseen = replace(known, displacement=None, blended=None)
    assert unseen.rows(torch.tensor([0])).displacement is None
    assert not unseen.distance.any()
