"""The naive baselines against values worked out by hand. Frame k is filled with k / 10."""

from __future__ import annotations

import numpy as np
import pytest

from sadm_ray.evaluate.naive_baselines import copy_first, copy_last, extrapolation, interpolation, last_observed

TIMES = np.array([0.0, 1.0, 1.5, 4.0, 6.0], dtype=np.float32)
FRAMES = np.broadcast_to((np.arange(5) / 10)[:, None, None, None], (5, 2, 3, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("observed", "target", "slot"),
    [
        ([0], 4, 0),
        ([0, 2], 4, 2),
        ([2, 0], 4, 2),  # the order in which they are named does not matter
        ([0, 2, 4], 3, 2),  # frame 4 comes after the target
        ([2, 4], 0, 2),  # none before: the nearest
        ([4], 1, 4),
    ],
)
def test_copy_last_copies_the_last_observed_before_the_target(observed: list[int], target: int, slot: int) -> None:
    assert last_observed(observed, TIMES, target) == slot
    np.testing.assert_array_equal(copy_last(FRAMES, observed, TIMES, target), FRAMES[slot])


def test_the_order_is_that_of_time_not_of_slots() -> None:
    times = np.array([5.0, 0.0, 2.0])
    assert last_observed([0, 1], times, 2) == 1


def test_interpolation_weighs_by_irregular_times() -> None:
    between = interpolation(FRAMES, [1, 3], TIMES, 2)  # a sixth of the way from t = 1 to t = 4
    assert between is not None
    np.testing.assert_allclose(between, 0.1 + (0.3 - 0.1) / 6, rtol=1e-6)


def test_interpolation_uses_the_neighbours_only() -> None:
    with_more = interpolation(FRAMES, [0, 1, 3, 4], TIMES, 2)
    assert with_more is not None
    np.testing.assert_array_equal(with_more, interpolation(FRAMES, [1, 3], TIMES, 2))


@pytest.mark.parametrize(("observed", "target"), [([0, 1], 3), ([2, 3], 0)])
def test_interpolation_never_extrapolates(observed: list[int], target: int) -> None:
    assert interpolation(FRAMES, observed, TIMES, target) is None


def test_copy_first_is_there_when_it_is_another_frame_than_copy_last_has() -> None:
    np.testing.assert_array_equal(copy_first(FRAMES, [2, 1, 4], TIMES, 3), FRAMES[1])
    assert copy_first(FRAMES, [1, 4], TIMES, 3) is None
    assert copy_first(FRAMES, [3, 4], TIMES, 1) is None  # nothing before the target: copy-last has the first one too


def test_extrapolation_goes_on_as_the_last_two_did() -> None:
    beyond = extrapolation(FRAMES, [0, 1, 2, 4], TIMES, 3)  # 0.2 per unit of time after t = 1.5
    assert beyond is not None
    np.testing.assert_allclose(beyond, 0.2 + 0.2 * 2.5, rtol=1e-6)
    steep = extrapolation(4 * FRAMES, [1, 2], TIMES, 4)
    assert steep is not None
    assert steep.max() == 1.0
    bright = extrapolation(4 * FRAMES, [1, 2, 3], TIMES, 4)  # 1.2 is observed
    assert bright is not None
    assert bright.max() == pytest.approx(1.2)
    assert extrapolation(FRAMES, [0, 4], TIMES, 3) is None
    assert extrapolation(FRAMES, [0, 1], np.array([1.0, 1.0, 2.0, 3.0, 4.0]), 2) is None


def test_frames_taken_at_once_do_not_divide_by_zero() -> None:
    times = np.array([0.0, 1.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(interpolation(FRAMES, [1, 3], times, 2), FRAMES[1])


@pytest.mark.parametrize("baseline", [copy_last, copy_first, extrapolation, interpolation])
def test_nothing_to_copy_and_nothing_to_predict_are_refused(baseline) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="nothing is observed"):
        baseline(FRAMES, [], TIMES, 2)
    with pytest.raises(ValueError, match="frame 2 is observed"):
        baseline(FRAMES, [0, 2], TIMES, 2)
