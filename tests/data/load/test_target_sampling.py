import pytest
import torch

from sadm_ray.data.load.rng import SampleRng
from sadm_ray.data.load.target_sampling import draw_target, nearest_present, take

PRESENT = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 1, 0]], dtype=torch.bool).repeat(400, 1)


def rng(samples: int) -> SampleRng:
    return SampleRng(0, 0, range(samples), samples)


@pytest.mark.parametrize("imputation", [0.0, 0.5, 1.0])
def test_a_target_is_later_than_an_observed_frame(imputation: float) -> None:
    draw = draw_target(PRESENT, rng(len(PRESENT)), imputation)
    rows = torch.arange(len(PRESENT))
    index = torch.arange(6)
    first = PRESENT.int().argmax(dim=1)
    assert PRESENT[rows, draw.target].all()
    assert (draw.target > first).all()
    assert not draw.observed[rows, draw.target].any()
    assert draw.observed[rows, first].all()
    assert not (draw.observed & ~PRESENT).any()
    later = (draw.observed & (index > draw.target[:, None])).any()
    assert bool(later) == (imputation > 0)


def test_every_frame_is_a_target_and_every_count_of_observed_frames_is_common() -> None:
    present = torch.ones(6000, 6, dtype=torch.bool)
    draw = draw_target(present, rng(6000))
    share = torch.bincount(draw.target, minlength=6)[1:] / len(present)
    assert share.min() > 0.17
    last = draw.target == 5
    counts = torch.bincount(draw.observed[last].sum(dim=1), minlength=6)[1:] / last.sum()
    assert counts.min() > 0.14  # uniform over 1 to 5 observed frames


def test_the_first_frame_may_be_the_only_observed_one() -> None:
    present = torch.ones(6000, 6, dtype=torch.bool)
    plain, more, always = (draw_target(present, rng(6000), 0.0, single) for single in (0.0, 0.5, 1.0))
    alone = [float((each.observed.sum(dim=1) == 1).float().mean()) for each in (plain, more, always)]
    assert alone[2] == 1
    assert alone[1] == pytest.approx((1 + alone[0]) / 2, abs=0.02)
    assert torch.equal(plain.target, more.target)


def test_the_first_and_the_last_frame_may_be_the_only_observed_ones() -> None:
    draw = draw_target(PRESENT, rng(len(PRESENT)), 1.0, 1.0)
    rows, index = torch.arange(len(PRESENT)), torch.arange(6)
    first, last = PRESENT.int().argmax(dim=1), torch.where(PRESENT, index, -1).amax(dim=1)
    expected = torch.zeros_like(PRESENT)
    expected[rows, first] = expected[rows, last] = True
    expected[rows, draw.target] = False
    assert torch.equal(draw.observed, expected)
    assert 0.2 < (expected.sum(dim=1) == 2).float().mean() < 0.8


def test_empty_slots_at_the_end_change_nothing() -> None:
    longer = torch.cat([PRESENT, torch.zeros(len(PRESENT), 5, dtype=torch.bool)], dim=1)
    one, other = (draw_target(each, rng(len(PRESENT)), 0.5) for each in (PRESENT, longer))
    assert torch.equal(one.target, other.target)
    assert torch.equal(one.observed, other.observed[:, :6])
    assert not other.observed[:, 6:].any()


def test_take_picks_each_rows_own_frame() -> None:
    frames = torch.arange(6).reshape(2, 3)
    assert take(frames, torch.tensor([2, 0])).tolist() == [2, 3]


def test_the_nearest_present_slot() -> None:
    present = [True, False, True, False, False, True]
    assert [nearest_present(frame, present) for frame in (0, 1, 2, 3, 4, 5, -1)] == [0, 0, 2, 2, 5, 5, 5]
