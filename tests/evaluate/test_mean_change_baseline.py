"""The mean change of a study whose subjects' frames are known numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.evaluate.mean_change_baseline import MeanChange, mean_change
from tests.data.studies import made_row, write_study

pytestmark = pytest.mark.ray

SHAPE = (2, 3, 3)
FRAMES = {  # a level each; the third has no frame 1
    "anna": ([0.1, 0.2, 0.5], [True, True, True], [0.0, 1.0, 2.0]),
    "ben": ([0.2, 0.4, 0.2], [True, True, True], [0.0, 3.0, 4.0]),
    "cleo": ([0.4, 0.0, 0.7], [True, False, True], [1.0, 1.5, 3.0]),
    "test": ([0.9, 0.0, 0.0], [True, True, True], [0.0, 1.0, 2.0]),
}


@pytest.fixture(scope="module")
def study(ray_local: object, tmp_path_factory: pytest.TempPathFactory) -> Study:
    rows = [
        made_row(name, np.broadcast_to(np.array(levels)[:, None, None, None], (3, *SHAPE)), present, times)
        for name, (levels, present, times) in FRAMES.items()
    ]
    subjects = {"train": ("anna", "ben", "cleo"), "test": ("test",)}
    return replace(write_study(tmp_path_factory.mktemp("study"), rows, subjects), frames=3)


def test_fixed_slots_change_by_pairs_of_subjects_with_both(study: Study) -> None:
    found = mean_change(study, {(0, 1), (0, 2), (1, 9)})
    assert found is not None
    assert found.rate is None
    assert set(found.changes) == {(0, 1), (0, 2)}
    np.testing.assert_allclose(found.changes[0, 1], np.full(SHAPE, (0.1 + 0.2) / 2), atol=1e-3)
    np.testing.assert_allclose(found.changes[0, 2], np.full(SHAPE, (0.4 + 0.0 + 0.3) / 3), atol=1e-3)


def test_visits_at_free_times_change_by_the_time_between(study: Study) -> None:
    found = mean_change(replace(study, frames=None), {(0, 1)})
    assert found is not None
    assert found.rate is not None
    np.testing.assert_allclose(found.rate, np.full(SHAPE, (0.4 + 0.0 + 0.3) / (2 + 4 + 2)), atol=1e-3)


def test_without_training_subjects_there_is_none(study: Study) -> None:
    assert mean_change(replace(study, subjects={"test": ("test",)}), {(0, 1)}) is None


def test_the_change_is_added_to_what_copy_last_copies() -> None:
    frames, times = np.full((3, *SHAPE), 0.5, dtype=np.float32), np.array([0.0, 1.0, 4.0])
    change = np.full(SHAPE, 0.2, dtype=np.float32)
    slots, free = MeanChange({(0, 1): change}, None), MeanChange({}, change)
    assert slots.predict(frames, [0, 2], times, 1) == pytest.approx(0.7)
    assert slots.predict(frames, [0], times, 2) is None
    assert free.predict(frames, [0, 1], times, 2) == pytest.approx(1.0)  # 0.5 + 3 · 0.2, clipped
    assert free.predict(frames, [1], times, 0) == pytest.approx(0.3)  # back in time
    assert free.predict(2.5 * frames, [0, 1], times, 2) == pytest.approx(1.25)  # as bright as what was observed
