"""What a request gives to the wanted visit."""

import numpy as np
import pytest

from sadm_ray.config import CovariateSettings, GenerateSettings
from sadm_ray.data.shards.subject_row import parse_row
from sadm_ray.errors import ConfigError
from sadm_ray.generate.given_covariates import combinations, planned_of, request_name
from sadm_ray.generate.request import Request, sample_seed
from tests.data.studies import made_row

ARM = CovariateSettings(name="arm", of="visit", levels=("A", "B"), planned=True)
DOSE = CovariateSettings(name="dose", of="visit", planned=True)
SCORE = CovariateSettings(name="score", of="visit")


def test_every_value_of_one_goes_with_every_value_of_the_others() -> None:
    assert combinations((), (ARM,)) == [{}]
    assert combinations(("arm=b", "dose=2", "arm=A", "arm=B"), (ARM, DOSE)) == [
        {"arm": "B", "dose": 2.0},
        {"arm": "A", "dose": 2.0},
    ], "levels are spelled as the model has them, and each once"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arm=C", "generate.given: arm: 'C' is none of the levels A, B"),
        ("dose=much", "generate.given: dose: 'much' is no number"),
        ("dose=nan", "generate.given: dose: 'nan' is no number"),
        (
            "score=1",
            "generate.given: score is no planned covariate of the model; those that can be given are arm, dose",
        ),
    ],
)
def test_what_the_model_does_not_know_is_refused(text: str, message: str) -> None:
    planned = planned_of([(ARM, SCORE), (ARM, DOSE)])
    assert planned == (ARM, DOSE)
    with pytest.raises(ConfigError) as raised:
        combinations((text,), planned)
    assert str(raised.value) == message


def test_a_model_without_planned_covariates_says_so() -> None:
    with pytest.raises(ConfigError, match=r"this model has none that can be given \(planned\)"):
        combinations(("arm=A",), ())


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"given": ["arm"], "missing": True}, "'arm' is not a covariate's name=value, such as treatment=B"),
        ({"given": ["arm="], "missing": True}, "'arm=' is not a covariate's name=value"),
        ({"given": ["arm=A"]}, "given goes with missing, at or file"),
    ],
)
def test_settings_are_checked(wanted: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerateSettings.model_validate(wanted)


def test_samples_under_two_treatments_have_one_noise_which_is_that_of_no_treatment() -> None:
    plain = Request("visits", 2, 7, times=(1.0,))
    a, b = plain.under({"arm": "A"}), plain.under({"arm": "B", "dose": 0.5})
    assert [each.name for each in (a, b)] == ["visits arm=A", "visits arm=B dose=0.5"]
    assert request_name("visits", {}) == "visits"
    seeds = {each.sample_seed("s", 1) for each in (plain, a, b)}
    assert seeds == {sample_seed(7, "s", "visits", 1)}, "as it was before there were treatments"
    assert a.to_json() != b.to_json()
    assert plain.under({}).to_json().keys() == a.to_json().keys() - {"given", "paired"}, "keys stay what they were"


def test_what_is_given_goes_before_what_the_tables_say() -> None:
    known = {"subject": {"arm": "A"}, "visits": [{}, {"arm": "B", "dose": 3.0}, {"arm": "?"}, {}]}
    row = parse_row(made_row("s", np.zeros((4, 2, 4, 4)), [True, True, False, False], covariates=known))
    slots = Request("visits", 1, 0, missing=True, times=(9.0, row["times"][1]), skip_scanned=False)
    targets = slots.query(row)
    assert targets.targets == (1, 2, 3, -1)
    planned = targets.planned(row, (ARM, DOSE, SCORE))
    assert planned == [{"arm": "B", "dose": 3.0}, {}, {"arm": "A"}, {"arm": "A"}], "'?' is none of the levels"
    given = slots.under({"arm": "B"}).query(row).planned(row, (ARM, DOSE, SCORE))
    assert given == [{"arm": "B", "dose": 3.0}, {"arm": "B"}, {"arm": "B"}, {"arm": "B"}]
