from __future__ import annotations

import numpy as np

from sadm_ray.config import CovariateSettings
from sadm_ray.data.load.collate import collate
from sadm_ray.data.shards.subject_row import parse_row
from tests.data.studies import made_row

SHAPE = (2, 4, 4)


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *SHAPE)).astype(np.float16)


def test_sequences_are_padded_to_the_longest_and_masked() -> None:
    long, short = frames(5), frames(2, 1)
    rows = [made_row("a", long, times=[0, 1, 2, 3, 4]), made_row("b", short, times=[0, 7])]
    batch = collate([parse_row(row) for row in rows])
    assert batch.subjects == ("a", "b")
    assert batch.lengths == (5, 2)
    assert batch.frames.shape == (2, 5, 1, *SHAPE)
    np.testing.assert_array_equal(batch.frames[1, :2, 0], short)
    np.testing.assert_array_equal(batch.frames[0, :, 0], long)
    assert batch.present.tolist() == [[True] * 5, [True, True, False, False, False]]
    assert batch.times[1].tolist() == [0, 7, 0, 0, 0]
    assert batch.covariates is None
    assert batch.visit_covariates is None


def test_covariates_become_numbers_levels_and_gaps() -> None:
    settings = (
        CovariateSettings(name="sex", levels=("F", "M")),
        CovariateSettings(name="age"),
        CovariateSettings(name="score", of="visit"),
        CovariateSettings(name="stage", levels=("1", "2")),
    )
    rows = [
        made_row(
            "a",
            frames(3),
            covariates={"subject": {"sex": "m", "age": 61.5, "stage": 2.0}, "visits": [{"score": 4.0}, {}, {}]},
        ),
        made_row("b", frames(1), covariates={"subject": {"sex": "?", "age": "old"}, "visits": [{"score": "7"}]}),
    ]
    batch = collate([parse_row(row) for row in rows], settings)
    nan = np.nan
    np.testing.assert_array_equal(batch.covariates, np.float32([[1, 61.5, 1], [nan, nan, nan]]))
    np.testing.assert_array_equal(batch.visit_covariates[..., 0], np.float32([[4, nan, nan], [7, nan, nan]]))


def test_planned_covariates_of_a_target_are_its_visits_or_else_its_subjects() -> None:
    settings = (
        CovariateSettings(name="score", of="visit"),
        CovariateSettings(name="arm", of="visit", levels=("A", "B"), planned=True),
    )
    known = {"subject": {"arm": "B", "score": 9.0}, "visits": [{"score": 4.0}, {"arm": "a"}, {}]}
    rows = [made_row("a", frames(3), covariates=known), made_row("b", frames(1))]
    batch = collate([parse_row(row) for row in rows], settings)
    nan = np.nan
    of_visits = [[[4, nan], [nan, 0], [nan, nan]], [[nan, nan]] * 3]
    np.testing.assert_array_equal(batch.visit_covariates, np.float32(of_visits))
    planned = [[[nan, 1], [nan, 0], [nan, 1]], [[nan, nan]] * 3]
    np.testing.assert_array_equal(batch.planned, np.float32(planned))
    assert collate([parse_row(row) for row in rows], settings[:1]).planned is None
