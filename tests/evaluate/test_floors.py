"""The floors, where they can be worked out by hand. Frame k is filled with k / 10."""

from __future__ import annotations

import numpy as np
import pytest

from sadm_ray.evaluate.floors import copy_last, interpolation, last_observed

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


def test_frames_taken_at_once_do_not_divide_by_zero() -> None:
    times = np.array([0.0, 1.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(interpolation(FRAMES, [1, 3], times, 2), FRAMES[1])


@pytest.mark.parametrize("floor", [copy_last, interpolation])
def test_nothing_to_copy_and_nothing_to_predict_are_refused(floor) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="nothing is observed"):
        floor(FRAMES, [], TIMES, 2)
    with pytest.raises(ValueError, match="frame 2 is observed"):
        floor(FRAMES, [0, 2], TIMES, 2)
