"""What a sweep scores of structures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sadm_ray.config import SamplingSettings, Settings, TuneSettings
from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.errors import ConfigError
from sadm_ray.evaluate.structure_objectives import LabelledTruth
from sadm_ray.evaluate.sweep_objectives import summarise
from sadm_ray.generate.actor_job import GenerationJob
from sadm_ray.generate.moved_structures import ObservedStructures
from sadm_ray.generate.request import Query
from sadm_ray.tune import sampling_sweep
from sadm_ray.tune.sampling_trial import SamplingTask, subject_scores
from tests.generate.test_generation_actor import TASK, job  # noqa: F401
from tests.generate.test_structures_written import folder, label_map, labels, study  # noqa: F401
from tests.model.test_registry import made

QUERY = Query(np.array([True, False, False, False, False]), (3, 4), np.array([0.75, 1.0]))
OWN_VOXELS = 5 * 12 * 10 / (4 * 8 * 8)


def shares_of(masks: list[np.ndarray]) -> np.ndarray:
    """Of two targets, two samples and the cavity alone."""
    return np.stack([np.stack([each[None] for each in masks])] * 2).astype(np.float16)


def test_scores_of_labelled_targets(study: Study, labels: LabelFiles) -> None:  # noqa: F811
    truth = LabelledTruth(read_subject(study, "a"), labels)
    assert truth.has(QUERY)
    assert not truth.has(replace(QUERY, targets=(3,)))
    assert not LabelledTruth(read_subject(study, "b"), labels).has(QUERY)
    structures = ObservedStructures({"cavity": 3}, {}, OWN_VOXELS, None)
    mask = np.zeros((4, 8, 8), bool)
    mask[:, :4] = True  # as six of twelve rows of the own grid
    found = truth.scores(QUERY, structures, shares_of([mask, mask]))
    assert set(found) == {4}, "the other target has no label map"
    assert found[4]["dice"] == 1
    assert found[4]["volume_off"] == pytest.approx(0, abs=1e-6)
    volumes = [(label_map(rows) == 3).sum() for rows in (4, 6)]
    assert found[4]["copy_last_volume_off"] == pytest.approx(1 - volumes[0] / volumes[1])
    assert 0.6 < found[4]["copy_last_dice"] < 0.95
    half = mask.copy()
    half[:, 2:] = False
    found = truth.scores(QUERY, structures, shares_of([mask, half]))
    assert found[4]["dice"] == pytest.approx((1 + 2 / 3) / 2), "the mean of the samples"
    assert found[4]["volume_off"] == pytest.approx(0.25), "of their median"


def test_the_error_of_volumes_is_in_that_of_copying() -> None:
    base = {"psnr": 1.0, "copy_last": 0.0, "psnr_changed": 1.0, "copy_last_changed": 0.0}
    one, other = ({"volume_off": off, "copy_last_volume_off": copied} for off, copied in ((0.1, 0.4), (0.3, 0.4)))
    nothing = dict.fromkeys(one, math.nan)
    scores = summarise([{"t": base | one}, {"t": base | other}, {"t": base | nothing}])
    assert scores["volume_error"] == pytest.approx(0.5)
    assert math.isnan(summarise([{"t": base | nothing}])["volume_error"])
    assert "volume_error" not in summarise([{"t": base}])


def test_a_trial_scores_structures_where_they_are_wanted(
    job: GenerationJob,  # noqa: F811
    study: Study,  # noqa: F811
    labels: LabelFiles,  # noqa: F811
    tmp_path: Path,
) -> None:
    rows = [read_subject(study, name) for name in "ab"]
    task = SamplingTask(
        tmp_path / "model", tmp_path / "with", rows, (TASK,), SamplingSettings(), TuneSettings(samples=2), 0, labels
    )
    sampling = SamplingSettings(num_steps=1)
    (mine, others) = (subject_scores(row, sampling, task)["tasks"]["future"] for row in rows)
    assert 0.2 < mine["dice"] < 1
    assert mine["volume_off"] > 0
    assert math.isnan(others["dice"]), "b has no label map"
    plain = replace(task, scores=tmp_path / "without", labels=None)
    without = subject_scores(rows[0], sampling, plain)["tasks"]["future"]
    assert without == {key: value for key, value in mine.items() if key in without}, "following changes no sample"
    assert "dice" not in without


def test_objectives_of_structures_that_cannot_be_had_are_refused_in_a_line(
    job: GenerationJob,  # noqa: F811
    study: Study,  # noqa: F811
    labels: LabelFiles,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = job.models[0].build()
    rows = [read_subject(study, name) for name in "ab"]
    settings = Settings.model_validate({"tune": {"objectives": ["dice"]}, "generate": {"tasks": [TASK.model_dump()]}})
    monkeypatch.setattr(sampling_sweep, "labels_of", lambda _: labels)
    assert sampling_sweep._labels_wanted(Settings(), study, rows, model) is None
    assert sampling_sweep._labels_wanted(settings, study, rows, model) is labels
    for known, its, kind, words in (
        (labels, rows[1:], model, r"dice needs a validation subject .* none of these has them"),
        (None, rows, model, r"dice needs a validation subject .* the study has none; leave it out"),
        (labels, rows, made("sadm", target="difference"), r"dice is of moved label maps, and this model does not"),
    ):
        monkeypatch.setattr(sampling_sweep, "labels_of", lambda _, known=known: known)
        with pytest.raises(ConfigError, match=rf"tune\.objectives: {words}") as error:
            sampling_sweep._labels_wanted(settings, study, its, kind)
        assert "\n" not in str(error.value)
