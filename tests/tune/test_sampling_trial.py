"""A trial without Ray: its evaluations, its cache and its reports."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sadm_ray.config import SamplingSettings, TaskSettings, TuneSettings
from sadm_ray.evaluate.sweep_objectives import summarise
from sadm_ray.tune import sampling_trial as module
from sadm_ray.tune.sampling_trial import SamplingTask, rungs, sampling_trial, subject_scores
from tests.model.test_sadm import SHAPE, small

TASKS = (
    TaskSettings(name="next", observed=(0,), targets=(1, 2)),
    TaskSettings(name="far", observed=(0, 1), targets=(4,)),
)


def row(name: str, slots: int = 5) -> dict[str, Any]:
    generator = np.random.default_rng(len(name))
    frames = generator.random((slots, 1, *SHAPE), dtype=np.float32)
    present, times = np.ones(slots, dtype=bool), np.linspace(0, 1, slots, dtype=np.float32)
    return {"subject": name, "frames": frames, "present": present, "times": times}


@pytest.fixture
def sampling_task(tmp_path: Path) -> SamplingTask:
    small().save_pretrained(tmp_path / "model")
    tune = TuneSettings(samples=2, first_subjects=1, reduction=2)
    rows = [row("a"), row("bb", slots=3), row("ccc"), row("dddd"), row("eeeee")]
    return SamplingTask(
        tmp_path / "model", tmp_path / "scores", rows, TASKS, SamplingSettings(num_steps=2), tune, seed=3
    )


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(module.tune, "report", reported.append)
    return reported


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    evaluate = module._evaluate

    def counted(row: dict[str, Any], *rest: Any) -> Any:
        names.append(row["subject"])
        return evaluate(row, *rest)

    monkeypatch.setattr(module, "_evaluate", counted)
    return names


def test_first_subjects_without_the_frames_of_any_task(
    sampling_task: SamplingTask, reports: list[dict[str, Any]]
) -> None:
    far = (TaskSettings(name="far", observed=(0,), targets=(4,)),)
    short_first = replace(sampling_task, tasks=far, rows=[row("bb", slots=3), row("ccc"), row("dddd", slots=2)])
    sampling_trial({"num_steps": 1}, short_first)
    assert [report["subjects"] for report in reports] == [2, 3]
    assert all(np.isfinite(report["gain"]) for report in reports)


@pytest.mark.parametrize(
    ("first", "reduction", "subjects", "stops"),
    [(2, 2, 8, [2, 4, 8]), (1, 3, 8, [1, 3, 8]), (2, 2, 2, [2]), (5, 2, 3, [3]), (2, None, 8, [8])],
)
def test_the_rungs_end_with_all_subjects(first: int, reduction: int | None, subjects: int, stops: list[int]) -> None:
    assert rungs(TuneSettings(first_subjects=first, reduction=reduction), subjects) == stops


def test_a_trial_reports_the_means_so_far_after_each_rung(
    sampling_task: SamplingTask, reports: list[dict[str, Any]]
) -> None:
    sampling_trial({"num_steps": 2}, sampling_task)
    assert [each["subjects"] for each in reports] == [1, 2, 4, 5]
    sampling = SamplingSettings(num_steps=2)
    scores = [subject_scores(row, sampling, sampling_task)["tasks"] for row in sampling_task.rows]
    assert set(scores[0]) == {"next", "far"}
    assert set(scores[1]) == {"next"}  # too short for the other
    for report in reports:
        expected = summarise(scores[: report["subjects"]])
        assert {key: report[key] for key in expected} == expected
        assert report["network_calls"] == 2
    assert {"gain", "gain_changed", "nrmse_changed", "calibration", "spread_ratio", "psnr", "copy_last"} <= set(
        reports[0]
    )


def test_nothing_is_evaluated_twice(
    sampling_task: SamplingTask, reports: list[dict[str, Any]], evaluated: list[str]
) -> None:
    sampling_trial({"num_steps": 2, "sampler": "ddim", "stochasticity": 0.1}, sampling_task)
    assert evaluated == [row["subject"] for row in sampling_task.rows]
    sampling_trial({"num_steps": 2, "sampler": "ddim", "stochasticity": 0.9}, sampling_task)  # which does nothing there
    assert len(evaluated) == 5
    assert reports[:4] == reports[4:]
    sampling_trial({"num_steps": 3}, sampling_task)
    assert len(evaluated) == 10


def test_a_line_that_was_cut_short_costs_one_subject(
    sampling_task: SamplingTask, reports: list[dict[str, Any]], evaluated: list[str]
) -> None:
    sampling_trial({"num_steps": 2}, sampling_task)
    (file,) = sampling_task.scores.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    sampling_trial({"num_steps": 2}, sampling_task)
    assert evaluated[5:] == ["eeeee"]
    scores = [{key: value for key, value in each.items() if key != "seconds"} for each in reports]
    assert scores[:4] == scores[4:]


def test_cached_encodings_change_no_score(
    sampling_task: SamplingTask, evaluated: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module._encoded_cache.clear()
    sampling = SamplingSettings(num_steps=2, guidance_scale=0.5)
    kept = [
        subject_scores(row, sampling, replace(sampling_task, scores=tmp_path / place))["tasks"]
        for place in "xy"
        for row in sampling_task.rows
    ]
    assert len(module._encoded_cache) == 9  # two tasks of five subjects, one of which is too short for one
    monkeypatch.setattr(module, "ENCODED_CACHE_BYTES", 0)
    module._encoded_cache.clear()
    anew = [
        subject_scores(row, sampling, replace(sampling_task, scores=tmp_path / "z"))["tasks"]
        for row in sampling_task.rows
    ]
    assert module._encoded_cache == {}
    assert kept[:5] == kept[5:] == anew
    assert len(evaluated) == 15
