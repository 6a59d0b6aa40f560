"""What a study does not know of a model's covariates is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sadm_ray.config import CovariateSettings, ModelSettings
from sadm_ray.data.shards.known_covariates import unknown_covariates
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.steps.generation_steps import tell_of_unknown
from tests.data.studies import made_row, write_study

AGE = CovariateSettings(name="age", mean=60, deviation=10)
SEX = CovariateSettings(name="sex", levels=("F", "M"))
ARM = CovariateSettings(name="arm", of="visit", levels=("A", "B"))
DOSE = CovariateSettings(name="dose", of="visit")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    people: dict[str, dict[str, Any]] = {
        "a": {"subject": {"age": 61.0, "sex": "f"}, "visits": [{"arm": "A"}, {}]},
        "b": {"subject": {"sex": "male"}, "visits": [{"arm": "C"}, {"arm": "c"}]},
        "c": {"subject": {"age": "old", "sex": "M"}, "visits": [{}, {"arm": "B"}]},
    }
    frames = np.linspace(0, 1, 2 * 2 * 4 * 4).reshape(2, 2, 4, 4)
    rows = [made_row(name, frames, covariates=known) for name, known in people.items()]
    return write_study(tmp_path_factory.mktemp("study"), rows, {"train": ["a", "b"], "test": ["c"]})


def test_what_is_known_is_not_told(study: Study) -> None:
    assert unknown_covariates(study, ["a"], [AGE, SEX, ARM]) == []
    assert unknown_covariates(study, ["a", "b", "c"], []) == []


def test_a_planned_one_may_be_the_subjects(study: Study) -> None:
    planned = AGE.model_copy(update={"of": "visit", "planned": True})
    assert unknown_covariates(study, ["a"], [planned, ARM.model_copy(update={"planned": True})]) == []
    assert len(unknown_covariates(study, ["a"], [planned.model_copy(update={"planned": False})])) == 1


def test_a_covariate_that_nobody_has_is_told_with_those_that_there_are(study: Study) -> None:
    (line,) = unknown_covariates(study, ["a", "b"], [AGE, DOSE])
    assert line.startswith("dose: known of no subject")
    assert line.endswith("counts as missing; its tables have age, arm, sex")
    (line,) = unknown_covariates(study, ["b"], [AGE, DOSE])
    assert line.startswith("age, dose: known of no subject")


def test_values_that_say_nothing_to_the_model_are_told_with_those_that_do(study: Study) -> None:
    lines = unknown_covariates(study, ["a", "b", "c"], [AGE, SEX, ARM])
    assert [line.partition(",")[0] for line in lines] == [
        "age: 'old' is no number",
        "sex: 'male' is none of the levels F",
        "arm: 'C'",
    ]
    assert "arm: 'C', 'c' is none of the levels A, B, and counts as missing" in lines[2]


def test_generate_tells_it_once_for_all_models_and_of_the_subjects_that_are_asked_for(
    study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    models = [ModelConfig(shape=(2, 4, 4), model=ModelSettings(covariates=(AGE, DOSE)))] * 2
    tell_of_unknown(study, "train", models)
    assert [record.message.partition(" of ")[0] for record in caplog.records] == ["model.covariates: dose: known"]
    caplog.clear()
    tell_of_unknown(study, "all", models)
    assert len(caplog.records) == 2, "one subject of the test split has an age that is no number"
