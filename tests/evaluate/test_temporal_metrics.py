"""Sequences whose change and flicker can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sadm_ray.evaluate.temporal_metrics import runs, temporal_scores

EVEN = np.arange(4.0)
RAMP = np.repeat(np.array([0.0, 0.1, 0.2, 0.3])[:, None], 5, axis=1)


@pytest.mark.parametrize(
    ("targets", "observed", "absent", "expected"),
    [
        ({1, 2}, {0, 3}, (), [[0, 1, 2]]),
        ({1, 2, 4, 5}, {0, 3}, (), [[0, 1, 2], [3, 4, 5]]),
        ({1, 3}, {0, 2}, (), []),  # none are neighbours
        ({1, 3}, {0}, (2,), [[0, 1, 3]]),  # what was never scanned does not part them
        ({0, 1}, {5}, (), [[0, 1]]),  # nothing before
        ({2, 3}, {0}, (), [[2, 3]]),  # the scan before is not observed
    ],
)
def test_runs_are_of_neighbours_in_time(
    targets: set[int], observed: set[int], absent: tuple[int, ...], expected: list[list[int]]
) -> None:
    present = np.ones(6, dtype=bool)
    present[list(absent)] = False
    assert runs(targets, observed, present, np.arange(6.0)) == expected


def test_the_order_is_that_of_time() -> None:
    times = np.array([3.0, 2.0, 1.0, 0.0])
    assert runs({0, 1}, {2}, np.ones(4, dtype=bool), times) == [[2, 1, 0]]


def test_the_truth_itself_and_a_constant_offset_do_not_err() -> None:
    for generated in (RAMP, RAMP + 0.2):
        scores = temporal_scores([(EVEN, RAMP, generated)])
        assert scores["difference_error"] == pytest.approx(0, abs=1e-12)
        assert scores["flicker"] == pytest.approx(0, abs=1e-12)


def test_flicker_is_positive_and_standing_still_is_negative() -> None:
    shaken = RAMP + 0.05 * np.array([0.0, 1.0, -1.0, 1.0])[:, None]
    scores = temporal_scores([(EVEN, RAMP, shaken)])
    assert scores["flicker"] == pytest.approx((0.15 + 0.2) / 2)  # |0 − 2·1 − 1|·0.05 and |1 + 2·1 + 1|·0.05
    assert scores["difference_error"] == pytest.approx(math.sqrt((0.05**2 + 0.1**2 + 0.1**2) / 3))
    still = temporal_scores([(EVEN, RAMP**2, np.zeros_like(RAMP))])
    assert still["flicker"] == pytest.approx(-0.02)  # the truth bends, a copy does not


def test_a_straight_line_does_not_bend_at_uneven_times() -> None:
    times = np.array([0.0, 1.0, 1.5, 4.0])
    line = times[:, None] * np.full((1, 5), 0.1)
    assert temporal_scores([(times, np.zeros_like(line), line)])["flicker"] == pytest.approx(0, abs=1e-12)


def test_runs_weigh_by_their_frames() -> None:
    one, other = (EVEN, RAMP, RAMP * 2), (EVEN[:2], RAMP[:2], RAMP[:2])
    both = temporal_scores([one, other])
    assert both["difference_error"] == pytest.approx(math.sqrt(3 * 0.1**2 / 4))
    assert math.isnan(temporal_scores([other])["flicker"])
    nothing = temporal_scores([(EVEN, np.zeros((4, 0)), np.zeros((4, 0)))])
    assert all(math.isnan(value) for value in nothing.values())
