"""Covariates: each may be missing, and what is missing cannot matter."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sadm_ray.config import ConditionerSettings, CovariateSettings, DenoiserSettings, ModelSettings, NetworkSettings
from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.registry import build_model

KNOWN = (
    CovariateSettings(name="age", mean=60, deviation=10),
    CovariateSettings(name="sex", levels=("F", "M")),
    CovariateSettings(name="weight", of="visit", mean=70, deviation=15),
)


@pytest.fixture
def model() -> SequenceModel:
    return tiny(KNOWN)


def tiny(covariates: tuple[CovariateSettings, ...]) -> SequenceModel:
    torch.manual_seed(0)
    settings = ModelSettings(
        difference_scale=0.1,
        covariates=covariates,
        conditioner=ConditionerSettings(widths=(8, 16), heads=2, layers=1, channels=4),
        prior=NetworkSettings(widths=(16, 16), blocks=1, heads=2),
        denoiser=DenoiserSettings(widths=(16, 16), blocks=1, heads=2),
    )
    model = build_model(ModelConfig(shape=(4, 8, 8), model=settings)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def condition(
    model: SequenceModel, subject: Tensor | None, visit: Tensor | None, target: Tensor | None = None
) -> Tensor:
    frames = torch.rand(2, 3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    observed = torch.tensor([[True, True, False], [True, False, True]])
    times = torch.tensor([[0.0, 0.3, 0.6]] * 2)
    features = model.conditioner.encode(frames, observed)
    references = ReferenceFrames(frames[:, :2], times[:, :2] - 1.0, torch.tensor([[0.0, 1.0]] * 2))
    with torch.no_grad():
        return model.conditioner(features, observed, times, torch.ones(2), references, subject, visit, target)


NAN = torch.nan


def test_nothing_known_is_as_if_nothing_could_be(model: SequenceModel) -> None:
    nothing = condition(model, None, None)
    missing = condition(model, torch.full((2, 2), NAN), torch.full((2, 3, 1), NAN))
    torch.testing.assert_close(nothing, missing)


@pytest.mark.parametrize("column", [0, 1])
def test_each_covariate_matters_where_it_is_known(model: SequenceModel, column: int) -> None:
    one, other = torch.full((2, 2), NAN), torch.full((2, 2), NAN)
    one[:, column], other[:, column] = 0.0, 1.0
    results = [condition(model, each, None) for each in (None, one, other)]
    assert all(not torch.allclose(a, b) for a, b in [(results[0], results[1]), (results[1], results[2])])


def test_a_missing_one_leaves_the_others(model: SequenceModel) -> None:
    """What is missing is masked, not a value: the row with both knows more than, and not the same as, the others."""
    both = condition(model, torch.tensor([[60.0, 1.0]] * 2), None)
    only = condition(model, torch.tensor([[60.0, NAN]] * 2), None)
    mixed = condition(model, torch.tensor([[60.0, 1.0], [60.0, NAN]]), None)
    torch.testing.assert_close(mixed[0], both[0])
    torch.testing.assert_close(mixed[1], only[1])
    assert not torch.allclose(both, only)


def test_a_visits_covariate_counts_only_where_its_frame_is_observed(model: SequenceModel) -> None:
    weights = torch.tensor([[[70.0], [80.0], [90.0]]] * 2)
    changed = weights.clone()
    changed[0, 2], changed[1, 1] = -1e30, torch.inf  # the visits that are not observed
    torch.testing.assert_close(condition(model, None, weights), condition(model, None, changed))
    changed[0, 1] = 60.0
    assert not torch.allclose(condition(model, None, weights), condition(model, None, changed))


def test_generate_takes_them_through_a_rollout(model: SequenceModel) -> None:
    frames, observed = torch.rand(2, 2, 1, 4, 8, 8), torch.ones(2, 2, dtype=torch.bool)
    times, wanted = torch.tensor([[0.0, 0.5]] * 2), torch.tensor([[0.75, 1.0]] * 2)
    known = {"covariates": torch.tensor([[50.0, 0.0], [NAN, 1.0]]), "visit_covariates": torch.rand(2, 2, 1)}
    with_them = model.generate(frames, observed, times, wanted, [0, 1], **known)
    assert torch.isfinite(with_them).all()
    assert not torch.allclose(with_them, model.generate(frames, observed, times, wanted, [0, 1]))


def test_they_are_trained(model: SequenceModel) -> None:
    frames, observed = torch.rand(2, 2, 1, 4, 8, 8), torch.ones(2, 2, dtype=torch.bool)
    loss = model(
        frames, observed, torch.tensor([[0.0, 0.5], [0.0, 1.5]]), frames[:, 0], torch.ones(2),
        torch.rand(2), torch.randn(2, *model.noise_size((4, 8, 8))), None, torch.tensor([[50.0, 0.0], [NAN, 1.0]]),
        torch.rand(2, 2, 1),
    )  # fmt: skip
    loss.mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


TREATED = (KNOWN[2], CovariateSettings(name="treatment", of="visit", levels=("A", "B"), planned=True))


@pytest.fixture
def planning() -> SequenceModel:
    return tiny(TREATED)


def of_target(model: SequenceModel, wanted: Tensor | None, visit: Tensor | None = None) -> Tensor:
    return condition(model, None, visit, wanted)


def test_a_planned_covariate_of_the_target_matters_and_a_missing_one_does_not(planning: SequenceModel) -> None:
    nothing, missing = of_target(planning, None), of_target(planning, torch.full((2, 2), NAN))
    torch.testing.assert_close(nothing, missing)
    a, b = (of_target(planning, torch.tensor([[NAN, level]] * 2)) for level in (0.0, 1.0))
    assert not torch.allclose(a, b)
    assert not torch.allclose(a, nothing)
    mixed = of_target(planning, torch.tensor([[NAN, 0.0], [NAN, 1.0]]))
    torch.testing.assert_close(mixed, torch.stack([a[0], b[1]]))


def test_it_enters_as_that_of_a_visit_at_the_targets_time(planning: SequenceModel) -> None:
    """The visit before has a token too: with the same treatment it is another token, of another time."""
    visits = torch.full((2, 3, 2), NAN)
    visits[:, 0, 1] = 1.0
    before, then = of_target(planning, None, visits), of_target(planning, torch.tensor([[NAN, 1.0]] * 2))
    assert not torch.allclose(before, then)
    both = of_target(planning, torch.tensor([[NAN, 1.0]] * 2), visits)
    assert not torch.allclose(both, before)
    assert not torch.allclose(both, then)


def test_a_generated_frame_goes_on_with_the_covariates_that_it_was_generated_under(
    planning: SequenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real = [], planning.conditioner.forward

    def watched(*arguments: Any) -> Tensor:
        seen.append(arguments[6:])
        return real(*arguments)

    monkeypatch.setattr(planning.conditioner, "forward", watched)
    frames, observed = torch.rand(2, 2, 1, 4, 8, 8), torch.ones(2, 2, dtype=torch.bool)
    wanted = torch.tensor([[0.75, 1.0], [1.0, 0.75]])
    covariates = torch.tensor([[[NAN, 0.0], [NAN, 1.0]]] * 2)
    planning.generate(
        frames, observed, torch.tensor([[0.0, 0.5]] * 2), wanted, [0, 1], target_covariates=covariates,
        visit_covariates=torch.zeros(2, 2, 2),
    )  # fmt: skip
    first, second = seen
    torch.testing.assert_close(first[1], torch.tensor([[NAN, 0.0], [NAN, 1.0]]), equal_nan=True)
    torch.testing.assert_close(second[1], torch.tensor([[NAN, 1.0], [NAN, 0.0]]), equal_nan=True)
    torch.testing.assert_close(second[0][:, 2], first[1], equal_nan=True)


def test_planning_makes_no_other_weights_and_is_left_out_of_what_is_stored_where_it_is_false() -> None:
    usual = tuple(each.model_copy(update={"planned": False}) for each in TREATED)
    with_it, without = tiny(TREATED), tiny(usual)
    assert with_it.state_dict().keys() == without.state_dict().keys()
    assert "planned" not in without.config.model_dump_json()
    assert ModelConfig.read(with_it.config.model_dump_json().encode(), "").model.covariates == TREATED
    assert ModelConfig.read(without.config.model_dump_json().encode(), "").model.covariates == usual


def test_only_visits_are_planned() -> None:
    with pytest.raises(ValueError, match="sex is planned, which goes with visits; set of: visit, or planned: false"):
        CovariateSettings(name="sex", planned=True)
