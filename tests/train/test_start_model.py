"""A model that begins with the weights of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sadm_ray.config import CovariateSettings, Settings
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.registry import build_model
from sadm_ray.train.start_model import read_start_model, start_weights
from tests.train import runs

AGE = CovariateSettings(name="age", mean=60, deviation=10)
SEX = CovariateSettings(name="sex", levels=("F", "M"))
DOSE = CovariateSettings(name="dose", of="visit")


def model(seed: int, *covariates: CovariateSettings, **config: Any) -> SequenceModel:
    """A tiny one whose weights are all drawn from `seed`."""
    built = runs.model(covariates=covariates)
    built = build_model(built.config.model_copy(update=config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return built


def values(built: SequenceModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in built.named_parameters()}


@pytest.mark.parametrize("changed", [{}, {"shape": (8, 32, 32), "time_unit": "years"}])
def test_all_weights_are_taken_whatever_the_grid(changed: dict[str, Any]) -> None:
    start, new = model(1), model(2, **changed)
    found = start_weights(new, start)
    assert (found.share, found.new, found.reshaped) == (1, (), ())
    assert all(torch.equal(values(start)[name], weight) for name, weight in values(new).items())


def test_more_contrasts_leave_the_stems_and_take_the_rest() -> None:
    start, new = model(1), model(2, channels=2)
    before = values(new)
    found = start_weights(new, start)
    after = values(new)
    assert found.reshaped
    assert 0.3 < found.share < 1
    assert "of another shape: conditioner.encoder" in str(found)
    for name in before:
        expected = values(start)[name] if name in found.taken else before[name]
        assert torch.equal(after[name], expected), name


def test_covariates_are_known_by_their_settings_and_not_by_their_number() -> None:
    start, new = model(1, AGE, SEX), model(2, SEX, AGE.model_copy(update={"mean": 70}), DOSE)
    found = start_weights(new, start)
    embedding = "conditioner.covariates.subject.{}.embed.weight"
    assert torch.equal(values(new)[embedding.format(0)], values(start)[embedding.format(1)])
    assert {name.rpartition(".embed")[0] for name in found.new} == {
        "conditioner.covariates.subject.1",  # a number that is scaled otherwise
        "conditioner.covariates.visit.0",
    }


def test_a_planned_covariate_takes_the_weights_of_one_that_was_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start, new = model(1, DOSE), model(2, DOSE.model_copy(update={"planned": True}))
    assert start_weights(new, start).share == 1
    start.save_pretrained(tmp_path / "start")
    read_start_model(given(tmp_path / "start"), new)
    assert "covariates dose, dose (planned)" in caplog.text


def test_a_model_without_covariates_is_no_reason_to_lose_the_rest() -> None:
    found = start_weights(model(2, AGE), model(1))
    assert found.new
    assert "new: conditioner.covariates" in str(found)
    assert found.share > 0.8


def given(folder: Path) -> Settings:
    return Settings.model_validate({"train": {"start_from": str(folder)}})


def test_what_differs_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model(1, AGE).save_pretrained(tmp_path)
    new = model(2, AGE, SEX, shape=(8, 32, 32), time_unit="years")
    stored = read_start_model(given(tmp_path), new)
    assert stored is not None
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith(f"train.start_from: {tmp_path}: ")
    assert told[1].endswith("grid 4×16×16, 8×32×32; covariates age, age+sex; times in no unit, years")


def test_a_model_that_does_not_go_with_it_is_refused(tmp_path: Path) -> None:
    new = model(2)
    with pytest.raises(DataError, match="no trained model here"):
        read_start_model(given(tmp_path / "none"), new)
    other = build_model(new.config.model_copy(update={"model": new.config.model.model_copy(update={"kind": "gan"})}))
    other.save_pretrained(tmp_path / "gan")
    with pytest.raises(ConfigError, match=r"start_from: .* of kind gan, and this run trains one of kind sadm; .*=gan$"):
        read_start_model(given(tmp_path / "gan"), new)


def test_none_is_none() -> None:
    assert read_start_model(Settings(), model(1)) is None
