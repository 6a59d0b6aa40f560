"""Who is read and drawn when: from the seed and the step alone."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sadm_ray.config import CovariateSettings, TrainSettings
from sadm_ray.data.study import Study
from sadm_ray.train.feed import Feed, draw_order, pools
from tests.data.studies import made_row, write_study

NAMES = tuple(f"s{number:02d}" for number in range(11))


def settings(**parts: int) -> TrainSettings:
    return TrainSettings(**{"steps": 40, "batch_size": 4, "subjects_in_memory": 3, "targets_per_subject": 4, **parts})


@given(
    subjects=st.integers(1, 40), world=st.integers(1, 4), memory=st.integers(1, 9), rounds=st.integers(1, 5),
    seed=st.integers(0, 5),
)  # fmt: skip
def test_every_subject_is_in_one_pool_an_epoch(subjects: int, world: int, memory: int, rounds: int, seed: int) -> None:
    chosen = TrainSettings(batch_size=4 * world, workers=world, subjects_in_memory=memory, targets_per_subject=rounds)
    names = [str(number) for number in range(subjects)]
    of_ranks = []
    for rank in range(world):
        endless = pools(names, chosen, seed, rank, world)
        of_ranks.append(list(islice(endless, 3 * -(-subjects // (memory * world)))))
    for epoch in range(3):
        seen = Counter(name for rank in of_ranks for pool in rank if pool.epoch == epoch for name in pool.subjects)
        assert set(seen) == set(names)
        if (subjects % (memory * world) or memory * world) >= world:  # else the last pool has too few for everybody
            assert set(seen.values()) == {1}
    assert len({tuple(pool.batches for pool in rank) for rank in of_ranks}) == 1, "all draw equally many"
    assert all(1 <= len(pool.subjects) <= memory for rank in of_ranks for pool in rank)


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int) -> list[tuple[str, ...]]:
        return [pool.subjects for pool in islice(pools(NAMES, settings(), seed, 0, 1), 8)]

    assert order(0) == order(0)
    assert order(0)[:4] != order(0)[4:]
    assert order(0) != order(1)


@pytest.mark.parametrize(("subjects", "batches", "size"), [(7, 14, 2), (3, 1, 8), (64, 2, 64)])
def test_every_subject_is_drawn_equally_often(subjects: int, batches: int, size: int) -> None:
    order = draw_order(subjects, batches, size, seed=0)
    assert order.shape == (batches, size)
    counts = np.bincount(order.ravel(), minlength=subjects)
    assert counts.max() - counts.min() <= 1
    assert not np.array_equal(order, draw_order(subjects, batches, size, seed=1))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Subjects that can be told by their voxels, of two to five visits."""
    rows = [
        made_row(
            name,
            np.full((2 + number % 4, 2, 4, 4), number / 16),
            times=range(2 + number % 4),
            covariates={"subject": {"age": float(number)}, "visits": [{}] * (2 + number % 4)},
        )
        for number, name in enumerate(NAMES)
    ]
    return write_study(tmp_path_factory.mktemp("study"), rows, {"train": NAMES, "val": (), "test": ()})


def feed(study: Study, rank: int = 0, world: int = 1) -> Feed:
    age = (CovariateSettings(name="age"),)
    return Feed(study, settings(workers=world), age, seed=3, rank=rank, world=world, device=torch.device("cpu"))


def drawn(study: Study, done: int = 0, rank: int = 0, world: int = 1) -> list[list[float]]:
    batches = list(feed(study, rank, world).batches(done))
    for batch in batches:
        numbers = batch.frames[:, 0, 0, 0, 0, 0] * 16
        assert batch.covariates is not None
        assert torch.equal(batch.covariates[:, 0], numbers)
        assert batch.present.sum(1).tolist() == [2 + int(number) % 4 for number in numbers]
    return [(batch.frames[:, 0, 0, 0, 0, 0] * 16).tolist() for batch in batches]


@pytest.mark.ray
def test_a_resumed_run_sees_the_same_subjects(study: Study, ray_local: None) -> None:
    whole = drawn(study)
    assert len(whole) == 40
    assert {number for batch in whole for number in batch} == set(range(11))
    for done in (1, 3, 17, 39):
        assert drawn(study, done) == whole[done:]


@pytest.mark.ray
def test_workers_share_the_subjects(study: Study, ray_local: None) -> None:
    first, second = drawn(study, 0, 0, 2), drawn(study, 0, 1, 2)
    assert len(first) == len(second) == 40
    assert all(len(batch) == 2 for batch in first)
    pool = 6 * 4 // 4  # batches that the first pools last for
    mine, others = ({number for batch in part[:pool] for number in batch} for part in (first, second))
    assert not mine & others
    assert len(mine | others) == 6
