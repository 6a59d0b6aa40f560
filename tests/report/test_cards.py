"""The cards say what the study and the model are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sadm_ray.config import DataSettings, SamplingSettings, TrainSettings
from sadm_ray.evaluate.score_tables import verdicts
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.registry import build_model
from sadm_ray.model.seen_subjects import NOT_RECORDED, SeenSubjects
from sadm_ray.report.cards import data_card, model_card
from tests.report.made import make_run


def test_the_data_card_counts_subjects_and_problems(tmp_path: Path) -> None:
    study = make_run(tmp_path).study
    facts = data_card(study, "our scans", DataSettings()).facts
    assert facts["subjects"] == "4: 0 training, 4 test"
    assert "4 × 16 × 16 voxels" in facts["grid"]
    assert facts["time"] == "years"
    assert facts["problems while preparing"] == "none"
    harmed = data_card(replace(study, problems=("a", "b"), warnings=("c",)), "our scans", DataSettings()).facts
    assert harmed["problems while preparing"].startswith("2 left out, 1 used with a warning")


def test_the_model_card_has_measurements_and_limits_of_use(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    model = build_model(ModelConfig(shape=(4, 16, 16), preparation="0123456789abcdef0"))
    judged = verdicts(run.evaluation.table)
    seen = SeenSubjects.of([frozenset({"a"}), frozenset({"b"})], [frozenset({"c"})])
    facts = model_card(model, seen, TrainSettings(), SamplingSettings(), judged).facts
    assert facts["kind"].startswith("sadm, which predicts")
    assert "parameters" in facts["size"]
    assert all(verdict.sentence in facts["measured"] for verdict in judged)
    assert facts["preparation"] == "0123456789abcdef"
    assert facts["trained on"] == "2 subjects, with 1 to choose on; 400 steps, 16 sequences each"
    assert model_card(model, NOT_RECORDED, None, SamplingSettings(), []).facts["trained on"] == "whom is not recorded"
    assert "diagnosis" in facts["not intended"]
