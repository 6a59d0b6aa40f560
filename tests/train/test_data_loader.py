"""Which subjects are read and drawn at which step follows from the seed and the step alone."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sadm_ray.config import CovariateSettings, TrainSettings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.train.data_loader import SequenceLoader, batch_positions, draw_order, epochs, pools
from tests.data.studies import made_row, write_study

NAMES = tuple(f"s{number:02d}" for number in range(11))


def settings(**parts: int) -> TrainSettings:
    return TrainSettings(**{"steps": 40, "batch_size": 4, "subjects_in_memory": 12, "targets_per_subject": 4, **parts})


@given(subjects=st.integers(1, 40), batch=st.integers(1, 9), memory=st.integers(1, 40), seed=st.integers(0, 5))
def test_every_subject_is_read_once_an_epoch(subjects: int, batch: int, memory: int, seed: int) -> None:
    chosen = TrainSettings(batch_size=batch, workers=1, subjects_in_memory=memory)
    everyone = [str(number) for number in range(subjects)]
    each = max(memory // batch, 1)
    read = []
    for pool in islice(pools(everyone, chosen, seed), -(-3 * subjects // (each * batch))):
        assert [len(names) for names in pool.subjects] == [each] * batch
        read += [names[index] for index in range(each) for names in pool.subjects]
    for epoch in range(3):
        assert Counter(read[epoch * subjects : (epoch + 1) * subjects]) == Counter(everyone)


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int) -> list[str]:
        return [name for pool in islice(pools(NAMES, settings(), seed), 11) for part in pool.subjects for name in part]

    assert order(0) == order(0)
    assert order(0)[:12] != order(0)[12:24]
    assert order(0) != order(1)


def test_every_subject_of_a_position_is_drawn_equally_often() -> None:
    order = draw_order(3, 12, [0, 1, 2])
    assert np.bincount(order).tolist() == [4, 4, 4]
    assert all(sorted(order[start : start + 3]) == [0, 1, 2] for start in range(0, 12, 3))
    assert not np.array_equal(order, draw_order(3, 12, [0, 1, 3]))


@given(world=st.integers(1, 9), batch=st.integers(1, 40))
def test_positions_are_divided_among_workers(world: int, batch: int) -> None:
    shares = [batch_positions(rank, world, batch) for rank in range(world)]
    assert [position for share in shares for position in share] == list(range(batch))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_epochs_are_counted() -> None:
    # A pool of 3 subjects per position, 12 in all, lasts for 12 steps; there are 11 subjects.
    counted = [epochs(step, 11, settings()) for step in (0, 1, 12, 13, 24, 25)]
    assert counted == [(0, 0), (2, 12), (2, 12), (3, 24), (3, 24), (4, 36)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Subjects that are recognised by their voxels, with two to five visits."""
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


def load(study: Study, first_step: int = 0, rank: int = 0, world: int = 1) -> list[list[str]]:
    age = (CovariateSettings(name="age"),)
    data_loader = SequenceLoader(study, settings(), age, 3, batch_positions(rank, world, 4), torch.device("cpu"))
    batches = list(data_loader.batches(first_step))
    for each in batches:
        numbers = each.batch.frames[:, 0, 0, 0, 0, 0] * 16
        assert each.subjects == tuple(NAMES[int(number)] for number in numbers)
        assert each.batch.covariates is not None
        assert torch.equal(each.batch.covariates[:, 0], numbers)
        assert each.batch.present.sum(1).tolist() == [2 + int(number) % 4 for number in numbers]
    return [list(each.subjects) for each in batches]


@pytest.mark.ray
def test_a_resumed_run_sees_the_same_subjects(study: Study, ray_local: None) -> None:
    whole = load(study)
    assert len(whole) == 40
    assert {name for batch in whole for name in batch} == set(NAMES)
    for first_step in (1, 3, 17, 39, 40):
        assert load(study, first_step) == whole[first_step:]


@pytest.mark.ray
@pytest.mark.parametrize("world", [2, 3])
def test_workers_see_together_what_one_sees(study: Study, ray_local: None, world: int) -> None:
    shares = [load(study, 5, rank, world) for rank in range(world)]
    together = [[name for share in batch for name in share] for batch in zip(*shares, strict=True)]
    assert together == load(study, 5)
