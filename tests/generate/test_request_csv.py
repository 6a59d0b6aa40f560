from pathlib import Path

import pytest

from sadm_ray.config import CovariateSettings
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.generate.answerable import TimeLimits
from sadm_ray.generate.request import Request, sample_seed
from sadm_ray.generate.request_csv import read_requests

SUBJECTS = ("a", "b")


def test_a_line_is_a_request(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("subject,times,samples,seed,observed,name\na,12;24,8,7,0;6,far\nb, 36 ,,,,\na,6,,,,near\n")
    requests, failures = read_requests(str(file), SUBJECTS, samples=2, seed=5)
    assert failures == {}
    assert requests == {
        "a": [
            Request("far", 8, 7, times=(12.0, 24.0), skip_scanned=False, observed=(0.0, 6.0)),
            Request("near", 2, 5, times=(6.0,), skip_scanned=False),
        ],
        "b": [Request("request", 2, 5, times=(36.0,), skip_scanned=False)],
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("c,12,,,", "line 2: no such subject in the study"),
        ("a,,,,", "line 2: times is empty"),
        ("a,soon,,,", "line 2: times: 'soon' is no time; write numbers split by ';'"),
        ("a,nan,,,", "line 2: times: 'nan' is no time; write numbers split by ';'"),
        ("a,-inf,,,", "line 2: times: '-inf' is no time; write numbers split by ';'"),
        ("a,12;1e30,,,", "line 2: times: '1e30' is no time; write numbers split by ';'"),
        (
            "a,12;5e3,,,",
            "line 2: times: 5000 is too far from the scans of the study, which are from 0 to 4 (years); take a time "
            "between -4000 and 4004",
        ),
        ("a,12,,,Near", "line 2: 'Near' is 'near' in other letters; write it alike"),
        *(
            (
                f"a,12,,,{name}",
                f"line 2: '{name}' is a file or folder of every output folder; give the request another name",
            )
            for name in ("predictions", "Predictions", "shards", "manifest.parquet", "REQUEST.json", "failures.csv")
        ),
        ("a,12,0,,", "line 2: samples: '0' is no whole number of at least 1"),
        ("a,12,,-1,", "line 2: seed: '-1' is no whole number of at least 0"),
        ("a,12,,,../up", "line 2: '../up' cannot be a folder's name; use letters, digits, '_', '-' and '.'"),
        ("a,12,1,1,x,more", "line 2: has more fields than the head"),
    ],
)
def test_a_bad_line_is_listed_and_the_others_are_kept(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "r.csv"
    file.write_text(f"subject,times,samples,seed,name\n{line}\nb,36,,,\n")
    if "Near" in line:
        file.write_text(f"subject,times,samples,seed,name\nb,36,,,near\n{line}\n")
        reason = reason.replace("line 2", "line 3")
    requests, failures = read_requests(str(file), SUBJECTS, 1, 0, TimeLimits(0.0, 4.0, 4000.0, "years"))
    assert list(requests) == ["b"]
    assert list(failures.values()) == [reason]


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("subject,times\na,12\na,24\n")
    requests, failures = read_requests(str(file), SUBJECTS, 1, 0)
    assert [request.times for request in requests["a"]] == [(12.0,)]
    assert failures == {("a", "request"): "line 3: requested twice as 'request'; give the lines a name each"}


@pytest.mark.parametrize(
    ("head", "message"),
    [("subject,when", "has no column 'times'"), ("subject,times,sede", "column 'sede' means nothing here")],
)
def test_columns_are_checked(tmp_path: Path, head: str, message: str) -> None:
    file = tmp_path / "r.csv"
    file.write_text(f"{head}\na,12,1\n")
    with pytest.raises(ConfigError, match=message):
        read_requests(str(file), SUBJECTS, 1, 0)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_requests(str(tmp_path / "none.csv"), SUBJECTS, 1, 0)


ARM = CovariateSettings(name="arm", of="visit", levels=("A", "B"), planned=True)
DOSE = CovariateSettings(name="dose", of="visit", planned=True)


def test_a_column_gives_a_planned_covariate_and_goes_before_what_is_given_to_all(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("subject,times,arm,dose\na,12,b,\na,12,A,3\nb,12,,\n")
    given = [{"dose": 1.0, "arm": "A"}, {"dose": 2.0, "arm": "A"}]
    requests, failures = read_requests(str(file), SUBJECTS, 2, 5, planned=(ARM, DOSE), given=given)
    assert failures == {}
    assert [request.given for request in requests["a"]] == [
        {"dose": 1.0, "arm": "B"},
        {"dose": 2.0, "arm": "B"},
        {"dose": 3.0, "arm": "A"},  # both say so for this line, once
    ]
    assert [request.given for request in requests["b"]] == given
    assert len({request.name for request in requests["a"]}) == 3
    assert {request.sample_seed("a", 0) for request in requests["a"]} == {sample_seed(5, "a", "request", 0)}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a,12,C,", "line 2: arm: 'C' is none of the levels A, B"),
        ("a,12,A,some", "line 2: dose: 'some' is no number"),
    ],
)
def test_a_value_that_the_model_does_not_know_is_listed(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "r.csv"
    file.write_text(f"subject,times,arm,dose\n{line}\nb,12,A,1\n")
    requests, failures = read_requests(str(file), SUBJECTS, 1, 0, planned=(ARM, DOSE))
    assert list(requests) == ["b"]
    assert failures == {("a", "request"): reason}


def test_the_same_treatment_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("subject,times,arm\na,12,A\na,24,a\n")
    _, failures = read_requests(str(file), SUBJECTS, 1, 0, planned=(ARM,))
    assert failures == {("a", "request"): "line 3: requested twice as 'request arm=A'; give the lines a name each"}


def test_the_columns_that_may_be_are_told_with_those_of_the_model(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("subject,times,treatment\na,12,A\n")
    with pytest.raises(ConfigError, match=r"column 'treatment' means nothing here; .* observed, name, arm, dose$"):
        read_requests(str(file), SUBJECTS, 1, 0, planned=(ARM, DOSE))
