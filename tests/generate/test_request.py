import numpy as np
import pytest

from sadm_ray.config import TaskSettings
from sadm_ray.data.shards.subject_row import parse_row
from sadm_ray.generate.request import NO_SLOT, Query, Request, query_of_task, sample_seed
from tests.data.studies import made_row

TIMES = np.linspace(0, 1, 5, dtype=np.float32)
TASK = TaskSettings(name="future", observed=(0, 2), targets=(3, -1))


def present(*slots: int) -> np.ndarray:
    return np.isin(np.arange(5), slots)


@pytest.mark.parametrize(
    ("here", "observed"),
    [
        ((0, 1, 2, 3, 4), [0, 2]),
        ((0, 1, 4), [0, 1]),  # slot 2 is absent: the nearest present one
        ((0, 3, 4), [0]),  # … unless that is a target
        ((1, 2), [1, 2]),
    ],
)
def test_absent_frames_are_replaced_by_the_nearest_but_never_by_a_target(
    here: tuple[int, ...], observed: list[int]
) -> None:
    query = query_of_task(TASK, present(*here), TIMES)
    assert np.flatnonzero(query.observed).tolist() == observed
    assert query.targets == (3, 4)
    assert query.target_times.tolist() == TIMES[[3, 4]].tolist()


def test_a_subject_with_nothing_to_observe_is_refused() -> None:
    with pytest.raises(ValueError, match="no frame that task 'future' may observe"):
        query_of_task(TASK, present(3, 4), TIMES)


def test_a_sequence_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="has 3 frames, hence no frame 3"):
        query_of_task(TASK, np.ones(3, dtype=bool), TIMES[:3])


def test_seeds_are_a_samples_own() -> None:
    seeds = {
        sample_seed(seed, subject, task, n) for seed in (0, 1) for subject in "ab" for task in "st" for n in (0, 1)
    }
    assert len(seeds) == 16
    assert sample_seed(0, "a", "s", 1) == sample_seed(0, "a", "s", 1)


def query_for(request: Request, *here: int, times: tuple[float, ...] = (0, 3, 6, 12, 24)) -> Query:
    return request.query(parse_row(made_row("a", np.zeros((5, 4, 8, 8)), present(*here).tolist(), times)))


def test_missing_visits_are_the_empty_slots() -> None:
    query = query_for(Request("visits", 1, 0, missing=True), 0, 2, 4)
    assert query.targets == (1, 3)
    assert query.target_times.tolist() == [3, 12]
    assert np.flatnonzero(query.observed).tolist() == [0, 2, 4]


def test_given_times_are_generated_where_there_is_no_scan() -> None:
    query = query_for(Request("visits", 1, 0, times=(36.0, 6.0, 12.0, 9.0)), 0, 2, 4)
    assert query.targets == (NO_SLOT, 3, NO_SLOT)
    assert query.target_times.tolist() == [9, 12, 36]  # 6 was scanned; 12 is a slot that was not
    assert query_for(Request("visits", 1, 0, missing=True, times=(12.0,)), 0, 2, 4).targets == (
        1,
        3,
    )  # 12 is a target once


def test_times_that_are_close_are_told_apart() -> None:
    days = (20190131.0, 20190201.0, 20190203.0, 20190205.0, 20190301.0)
    query = query_for(Request("visits", 1, 0, times=(20190201.0, 20190150.0, 20190160.0)), 0, 2, 4, times=days)
    assert query.targets == (NO_SLOT, NO_SLOT, 1)
    assert query.target_times.tolist() == [20190150, 20190160, 20190201]
    seen = query_for(Request("visits", 1, 0, missing=True, observed=(20190203.0,)), 0, 2, 4, times=days)
    assert np.flatnonzero(seen.observed).tolist() == [2]
    with pytest.raises(ValueError, match=r"targets 20190150 and 20190150\.5, which are one time to the model"):
        query_for(Request("visits", 1, 0, times=(20190150.0, 20190150.5)), 0, 2, 4, times=days)
    with pytest.raises(ValueError, match=r"no scan at the time 20190204, which"):
        query_for(Request("visits", 1, 0, missing=True, observed=(20190204.0,)), 0, 2, 4, times=days)


def test_a_rounded_time_is_that_of_its_slot() -> None:
    third = (0, 1 / 3, 2 / 3, 1, 2)
    assert query_for(Request("visits", 1, 0, times=(0.3333, 1.5)), 0, 2, 3, times=third).targets == (1, NO_SLOT)
    small = tuple(n * 1e-5 for n in range(5))
    assert query_for(Request("visits", 1, 0, times=(1.5e-5,)), 0, 2, 4, times=small).targets == (NO_SLOT,)


def test_a_complete_subject_has_no_targets() -> None:
    assert query_for(Request("visits", 1, 0, missing=True), 0, 1, 2, 3, 4).targets == ()


def test_a_scan_at_a_requested_time_is_a_target_and_not_observed() -> None:
    query = query_for(Request("request", 1, 0, times=(6.0, 36.0), skip_scanned=False), 0, 2, 4)
    assert query.targets == (2, NO_SLOT)
    assert np.flatnonzero(query.observed).tolist() == [0, 4]


def test_a_request_may_name_the_observed_scans() -> None:
    query = query_for(Request("request", 1, 0, times=(36.0,), skip_scanned=False, observed=(0.0, 6.0)), 0, 2, 4)
    assert np.flatnonzero(query.observed).tolist() == [0, 2]
    with pytest.raises(ValueError, match="has no scan at the time 3, which is to be observed"):
        query_for(Request("request", 1, 0, times=(36.0,), observed=(3.0,)), 0, 2, 4)
    with pytest.raises(ValueError, match="has no scan that may be observed"):
        query_for(Request("request", 1, 0, times=(6.0,), skip_scanned=False, observed=(6.0,)), 0, 2, 4)


def test_requests_that_differ_have_different_json() -> None:
    requests = [
        Request("a", 1, 0, times=(1.0,)), Request("b", 1, 0, times=(1.0,)), Request("a", 2, 0, times=(1.0,)),
        Request("a", 1, 1, times=(1.0,)), Request("a", 1, 0, times=(2.0,)),
        Request("a", 1, 0, times=(1.0,), missing=True), Request("a", 1, 0, times=(1.0,), skip_scanned=False),
        Request("a", 1, 0, times=(1.0,), observed=(0.0,)),
        Request("a", 1, 0, task=TASK),
    ]  # fmt: skip
    assert len({str(request.to_json()) for request in requests}) == len(requests)
