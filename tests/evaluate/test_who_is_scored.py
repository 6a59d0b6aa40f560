"""The sentences on whose scores are shown follow from whom the model has seen."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from sadm_ray.evaluate.evaluation_job import Evaluation
from sadm_ray.evaluate.score_tables import METRICS_COLUMNS, summarise
from sadm_ray.evaluate.who_is_scored import TITLES, who_is_scored
from sadm_ray.model.seen_subjects import NOBODY, NOT_RECORDED, SeenAs, SeenSubjects

SEEN = SeenSubjects.of([frozenset({"a", "b"}), frozenset({"c"})], [frozenset({"d"})])


def scored(split: SeenAs, *names: str) -> Evaluation:
    rows = [{"subject": name, "task": "t", "frame": 1, "method": "sample", "psnr": 20.0, "error": ""} for name in names]
    metrics = pd.DataFrame(rows, columns=METRICS_COLUMNS)
    return Evaluation(metrics, summarise(metrics), (), (), split=split, seen=SEEN)


def test_test_subjects_are_called_so_where_the_model_says_whom_it_has_seen() -> None:
    assert who_is_scored(scored("test", "x", "y")) == [
        "Scores are of 2 test subjects, none of whom the model has seen: it was trained on 2 others, and 1 other "
        "served to choose weights and settings."
    ]


def test_others_are_counted_and_named_for_what_they_are() -> None:
    others = scored("train", "p", "q"), scored("val", "r")
    first, *apart = who_is_scored(replace(scored("test", "x"), others=others))
    assert first.startswith("Scores are of 1 test subject, none of whom")
    assert apart == [
        "2 more subjects listed apart: the model was trained on them.",
        "1 more subject listed apart: weights or settings were chosen on them.",
    ]
    assert set(TITLES) == {"train", "val", "test", "unknown"}


def test_nothing_is_claimed_where_it_is_not_known_or_nobody_is_new() -> None:
    assert "not recorded whom the model has seen: the 1 subject scored here" in who_is_scored(scored("unknown", "x"))[0]
    nobody = replace(scored("test"), others=(scored("train", "p"),))
    assert who_is_scored(nobody)[0].startswith("The model has seen every subject that was predicted")


def test_whom_a_model_has_seen() -> None:
    assert [SEEN.seen_as(frozenset({each, "z"})) for each in "abcde"] == ["train", "train", "train", "val", "test"]
    assert SEEN.seen_as(frozenset({"d", "a"})) == "train"
    assert SEEN.seen_as(frozenset()) == "unknown"
    assert SeenSubjects.from_json(SEEN.to_json()) == SEEN


def test_of_several_models_everybody_counts_whom_one_has_seen() -> None:
    other = SeenSubjects.of([frozenset({"d"})], [frozenset({"e"})])
    both = SEEN | other
    assert [both.seen_as(frozenset({each})) for each in "adef"] == ["train", "train", "val", "test"]
    assert (SEEN | NOBODY) == SEEN
    assert (SEEN | NOT_RECORDED).seen_as(frozenset({"f"})) == "unknown"
    assert SeenSubjects.of([frozenset({"a"}), frozenset()], []).seen_as(frozenset({"f"})) == "unknown"
