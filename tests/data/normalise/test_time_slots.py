from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadm_ray.data.normalise.time_slots import ABSENT, assign_slots, slot_times

counts = st.integers(2, 60)


def uneven(most: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(-1000, 1000), min_size=2, max_size=most, unique=True).map(sorted)


@given(times=uneven(30), slots=st.integers(2, 30))
def test_frames_are_distinct_in_order_and_the_ends_are_fixed(times: list[float], slots: int) -> None:
    sources = assign_slots(times, slots)
    taken = sources[sources != ABSENT]
    assert len(sources) == slots
    assert len(taken) == min(len(times), slots)
    assert (np.diff(taken) > 0).all()
    assert sources[0] == 0
    assert sources[-1] == len(times) - 1


@given(count=counts, slots=counts)
def test_every_frame_of_an_even_sequence_sits_in_its_nearest_slot(count: int, slots: int) -> None:
    sources = assign_slots(np.linspace(0, 1, count), slots)
    present = sources != ABSENT
    off = np.abs(sources[present] / (count - 1) - np.linspace(0, 1, slots)[present])
    assert off.max() <= 0.5 / (max(count, slots) - 1) + 1e-12


@given(times=uneven(7), slots=st.integers(2, 7))
def test_no_other_order_lies_nearer(times: list[float], slots: int) -> None:
    sources = assign_slots(times, slots)
    nominal, acquired = np.linspace(times[0], times[-1], slots), np.array(times)
    pairs = min(slots, len(times))
    best = min(
        np.square(nominal[list(into)] - acquired[list(frames)]).sum()
        for into in combinations(range(slots), pairs)
        for frames in combinations(range(len(times)), pairs)
    )
    present = sources != ABSENT
    cost = np.square(nominal[present] - acquired[sources[present]]).sum()
    assert cost <= best * (1 + 1e-9) + 1e-12 * (times[-1] - times[0]) ** 2


def test_visits_crowded_in_time_spread_over_the_slots() -> None:
    np.testing.assert_array_equal(assign_slots([0.0, 0.5, 0.6, 10.0], 5), [0, 1, 2, ABSENT, 3])
    np.testing.assert_array_equal(assign_slots([21.0, 22.0, 23.0, 30.0, 34.0], 3), [0, 3, 4])


def test_two_slots_a_bit_off_are_better_than_one_far_off() -> None:
    # Off by 0.6 and 0.6 rather than by 0.4 and 0.78, though the sum of the latter is smaller.
    np.testing.assert_array_equal(assign_slots([0.0, 0.4, 1.4, 2.78, 3.0], 4), [0, 1, 2, 4])


def test_times_are_those_of_the_frames_and_nominal_where_absent() -> None:
    weeks = [20.0, 29.0, 40.0]
    sources = assign_slots(weeks, 5)
    np.testing.assert_array_equal(sources, [0, ABSENT, 1, ABSENT, 2])
    np.testing.assert_array_equal(slot_times(sources, weeks), np.array([20, 25, 29, 35, 40], np.float32))


@given(times=uneven(12), slots=st.integers(2, 12), seed=st.integers(0, 99))
def test_slots_follow_their_frames_through_time(times: list[float], slots: int, seed: int) -> None:
    filled = slot_times(sources := assign_slots(times, slots), times)[sources != ABSENT]
    np.testing.assert_array_equal(filled, np.array(times)[sources[sources != ABSENT]])


def test_times_a_rounding_error_apart_keep_their_order() -> None:
    np.testing.assert_array_equal(assign_slots([0.0, 1e-300, 2e-300, 1.0], 4), [0, 1, 2, 3])


@pytest.mark.parametrize(("count", "slots"), [(1, 8), (0, 8), (8, 1)])
def test_a_sequence_needs_two_ends(count: int, slots: int) -> None:
    with pytest.raises(ValueError, match="two frames"):
        assign_slots([float(time) for time in range(count)], slots)


@pytest.mark.parametrize("times", [[0.0, 1.0, 1.0, 2.0], [2.0, 1.0, 0.0], [0.0, np.nan, 1.0], [0.0, 1.0, np.inf]])
def test_times_increase(times: list[float]) -> None:
    with pytest.raises(ValueError, match="increase"):
        assign_slots(times, 3)
