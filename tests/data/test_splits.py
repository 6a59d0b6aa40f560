from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadm_ray.config import SplitSettings
from sadm_ray.data.find import SPLITS, Subject
from sadm_ray.data.splits import split_subjects
from sadm_ray.errors import DataError

GROUPS = ("DCM", "HCM", "MINF", "NOR", "RV")


def named(groups: dict[str, int]) -> list[Subject]:
    return [Subject(f"{group}{number:03d}", (), group) for group, size in groups.items() for number in range(size)]


def sizes(split_of: dict[str, str]) -> tuple[int, ...]:
    return tuple(list(split_of.values()).count(split) for split in SPLITS)


def balanced(**fractions: object) -> SplitSettings:
    return SplitSettings(method="balanced", **fractions)  # type: ignore[arg-type]


def test_balanced_splits_have_their_shares_of_every_group() -> None:
    subjects = named(dict.fromkeys(GROUPS, 12))
    split_of = split_subjects(subjects, balanced(val=0.1, test=0.2), seed=0)
    assert sizes(split_of) == (42, 6, 12)
    for group in GROUPS:
        assert 2 <= sum(split == "test" and name.startswith(group) for name, split in split_of.items()) <= 3
    assert split_of == split_subjects(subjects[::-1], balanced(val=0.1, test=0.2), seed=0), "the order is no matter"
    assert split_of != split_subjects(subjects, balanced(val=0.1, test=0.2), seed=1)


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (10, (8, 1, 1))])
def test_small_studies_keep_a_training_subject(count: int, expected: tuple[int, ...]) -> None:
    assert sizes(split_subjects(named({"": count}), balanced(val=0.1, test=0.15), seed=0)) == expected


@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=60), st.integers(0, 10_000), st.integers(0, 9))
def test_no_subject_moves_when_others_are_added(numbers: set[int], more: int, seed: int) -> None:
    settings = SplitSettings(val=0.2, test=0.3)
    before = split_subjects([Subject(f"s{number}", ()) for number in numbers], settings, seed)
    after = split_subjects([Subject(f"s{number}", ()) for number in {*numbers, more}], settings, seed)
    assert {name: after[name] for name in before} == before


def test_stable_splits_are_near_their_fractions() -> None:
    train, val, test = sizes(split_subjects(named({"": 4000}), SplitSettings(val=0.1, test=0.2), seed=3))
    assert train + val + test == 4000
    assert val == pytest.approx(400, abs=80)
    assert test == pytest.approx(800, abs=100)


@pytest.mark.parametrize("method", ["stable", "balanced"])
def test_every_subject_is_tested_in_one_fold(method: str) -> None:
    subjects = named(dict.fromkeys(GROUPS, 12))
    tested: Counter[str] = Counter()
    for fold in range(5):
        settings = SplitSettings(method=method, folds=5, fold=fold, val=0.1)  # type: ignore[arg-type]
        split_of = split_subjects(subjects, settings, seed=0)
        fold_sizes = sizes(split_of)
        tested.update(name for name, split in split_of.items() if split == "test")
        if method == "balanced":
            assert fold_sizes == (43, 5, 12)
            assert all(
                1 <= sum(split == "test" and name.startswith(group) for name, split in split_of.items()) <= 4
                for group in GROUPS
            )
    assert set(tested.values()) == {1}
    assert len(tested) == 60


@pytest.mark.parametrize("method", ["stable", "balanced"])
def test_groups_stay_together(method: str) -> None:
    subjects = named({f"family{number}-": 1 + number % 4 for number in range(40)})
    split_of = split_subjects(subjects, SplitSettings(method=method, by="group", val=0.2, test=0.2), seed=0)  # type: ignore[arg-type]
    for group in {subject.group for subject in subjects}:
        assert len({split_of[subject.name] for subject in subjects if subject.group == group}) == 1
    assert all(sizes(split_of))


def test_the_studys_own_splits_take_precedence() -> None:
    subjects = [Subject(f"s{number}", (), split=("test", None)[number % 2]) for number in range(40)]
    split_of = split_subjects(subjects, balanced(val=0.0, test=0.0), seed=0)
    assert {split_of[subject.name] for subject in subjects if subject.split} == {"test"}
    assert {split_of[subject.name] for subject in subjects if not subject.split} == {"train"}


@pytest.mark.parametrize("method", ["stable", "balanced"])
def test_a_split_of_its_own_is_that_of_the_whole_group(method: str) -> None:
    subjects = [Subject(f"{group}{number}", (), group) for group in "PQRST" for number in range(3)]
    subjects[1] = replace(subjects[1], split="test")
    settings = SplitSettings(method=method, by="group", val=0.2, test=0.2)  # type: ignore[arg-type]
    for seed in range(20):
        split_of = split_subjects(subjects, settings, seed)
        assert {split_of[f"P{number}"] for number in range(3)} == {"test"}
    subjects[2] = replace(subjects[2], split="train")
    with pytest.raises(DataError, match=r"subject P2: the study gives it the split 'train', and another .* 'P' 'test'"):
        split_subjects(subjects, settings, seed=0)


@pytest.mark.parametrize("method", ["stable", "balanced"])
def test_a_study_may_give_every_split(method: str) -> None:
    subjects = [replace(each, split="train") for each in named({"": 3})]
    assert sizes(split_subjects(subjects, SplitSettings(method=method), seed=0)) == (3, 0, 0)  # type: ignore[arg-type]


def test_fractions_of_zero_get_no_subjects() -> None:
    for method in ("stable", "balanced"):
        settings = SplitSettings(method=method, val=0.0, test=0.0)  # type: ignore[arg-type]
        assert set(split_subjects(named({"": 9}), settings, seed=0).values()) == {"train"}
