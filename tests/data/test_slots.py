from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadm_ray.data.slots import ABSENT, assign_slots, slot_times

counts = st.integers(2, 60)


@given(count=counts, slots=counts)
def test_frames_are_distinct_in_order_and_the_ends_are_fixed(count: int, slots: int) -> None:
    sources = assign_slots(count, slots)
    taken = sources[sources != ABSENT]
    assert len(sources) == slots
    assert len(taken) == min(count, slots)
    assert (np.diff(taken) > 0).all()
    assert sources[0] == 0
    assert sources[-1] == count - 1


@given(count=counts, slots=counts)
def test_every_frame_sits_in_the_nearest_slot(count: int, slots: int) -> None:
    sources = assign_slots(count, slots)
    present = sources != ABSENT
    off = np.abs(sources[present] / (count - 1) - np.linspace(0, 1, slots)[present])
    assert off.max() <= 0.5 / (max(count, slots) - 1) + 1e-12


def test_times_are_those_of_the_frames_and_nominal_where_absent() -> None:
    np.testing.assert_array_equal(assign_slots(3, 5), [0, ABSENT, 1, ABSENT, 2])
    times = slot_times(assign_slots(3, 5), [0.0, 0.45, 1.0])
    np.testing.assert_allclose(times, [0, 0.25, 0.45, 0.75, 1], atol=1e-7)


@pytest.mark.parametrize(("count", "slots"), [(1, 8), (0, 8), (8, 1)])
def test_a_sequence_needs_two_ends(count: int, slots: int) -> None:
    with pytest.raises(ValueError, match="two frames"):
        assign_slots(count, slots)
