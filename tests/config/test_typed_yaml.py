"""Text settings get the text that stands there, on the command line and in files; all else is YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sadm_ray.config import Settings
from sadm_ray.config.settings_file import dump_settings, load_settings
from sadm_ray.errors import ConfigError


def value_of(settings: Settings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


TEXTS = ["/out/exp #3", "/data/A: first/bids", "2024", "007", "1e3", "1.50", "0x1f", "1:30", "2024-01-31", "NO"]
TEXTS += [
    "*_run-1_*",
    "&x",
    "!x",
    "%x",
    "@x",
    "`x",
    "- x",
    "? x",
    "[sub]*",
    "{a,b}",
    "a, b",
    "x: y",
    "true",
    "a|b",
    ">x",
]
TEXTS += ["it's", "'a' or 'b'", "50%20 a?b&c=ü", "a=b", "\\d", "#3", "'", '"', "sub-*_T1w # not run 2", "..", "\ta"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["run.dir", "data.root", "data.match", "data.time_column", "tracking.experiment"])
def test_an_override_of_a_text_setting_is_taken_as_it_stands(key: str, text: str) -> None:
    assert str(value_of(load_settings(None, [f"{key}={text}"]), key)) == text


@given(st.text(min_size=1, max_size=20))
def test_any_text_is_a_text(text: str) -> None:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if not quoted and text.strip().lower() not in ("", "null", "none"):
        assert load_settings(None, [f"data.match={text}"]).data.match == text


@given(st.text(max_size=20))
def test_quotes_around_the_whole_are_those_of_yaml(text: str) -> None:
    line = yaml.safe_dump(text, default_style='"', width=10**6).rstrip("\n")
    assert load_settings(None, [f"tracking.experiment={line}"]).tracking.experiment == text


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.match='*_run-1_*'", "*_run-1_*"),
        ('data.match="a b"', "a b"),
        ("data.match='null'", "null"),
        ("data.match='it''s'", "it's"),
        ("data.match=null", None),
        ("data.match=none", None),
        ("data.match=", None),
        ("data.root=Null", None),
        ("run.name=null", "null"),
        ("run.name=2024", "2024"),
        ("data.crop=none", "none"),
        ("tracking.uri=sqlite:////x #1/m.db", "sqlite:////x #1/m.db"),
        ("data.shape=[8, 32, 32]", (8, 32, 32)),
        ("data.frames=null", None),
        ("generate.missing=yes", True),
        ("generate.ensemble=[/a, 2024, NO]", ("/a", "2024", "NO")),
        ("data.split.val=0.2", 0.2),
        ("diffusion.prediction='v'", "v"),
    ],
)
def test_overrides(override: str, value: Any) -> None:
    assert value_of(load_settings(None, [override]), override.partition("=")[0]) == value


@pytest.mark.parametrize(
    "text", ["2024", "007", "1e3", "1.50", "0x1f", "1:30", "2024-01-31", "NO", "on", "1_000", ".5"]
)
def test_a_plain_scalar_of_a_file_is_kept_as_text(text: str, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    name = text.lstrip(".:").replace(":", "-")
    file.write_text(
        f"run: {{name: {name}, dir: {text}}}\n"
        f"data:\n  root: {text} # a remark\n  time_column: {text}\n"
        f"model:\n  covariates:\n    - name: {name}\n      levels: [{text}, F]\n"
        f"generate: {{ensemble: [{text}]}}\n"
    )
    settings = load_settings(file)
    assert (settings.run.name, settings.run.dir, settings.data.root) == (name, Path(text), text)
    assert settings.data.time_column == text
    assert settings.model.covariates[0].levels == (text, "F")
    assert settings.generate.ensemble == (text,)
    file.write_text(dump_settings(settings))
    assert load_settings(file) == settings


def test_the_rest_of_a_file_is_yaml(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "data: {match: null, time_unit: ~, frames: 4, shape: [8, 16, 16]}\n"
        "run: &run {name: 2024}\n"
        "generate: {missing: on, tasks: [{name: 1, observed: [0], targets: [1]}]}\n"
        "tune: {training: {space: {train.steps: [10, 20], diffusion.shift: {low: -5, high: 0}}}}\n"
    )
    settings = load_settings(tmp_path / "s.yaml")
    assert (settings.data.match, settings.data.time_unit, settings.data.frames) == (None, None, 4)
    assert settings.generate.missing is True
    assert settings.generate.tasks[0].name == "1"
    assert settings.tune.training.space["train.steps"] == (10, 20)


@pytest.mark.parametrize("merged", ["*d", "[*d, {suffix: 9}]", "[{suffix: 7}, *d]"])
def test_merged_mappings_keep_their_texts(merged: str, tmp_path: Path) -> None:
    anchor = "*d" in merged and "{suffix: 7}"
    (tmp_path / "s.yaml").write_text(f"data:\n  <<: {merged.replace('*d', str(anchor))}\n")
    assert load_settings(tmp_path / "s.yaml").data.suffix == "7"


def test_a_mapping_that_is_merged_into_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("run: &run {<<: *run, name: 7}\n")
    assert load_settings(tmp_path / "s.yaml").run.name == "7"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("run.dir=", "run.dir: nothing follows the '='"),
        ("run.dir=/a\0b", "run.dir: holds the character NUL"),
        ("data.root=/a\udcffb", r"data.root: holds '\\udcff', a byte that is no UTF-8"),
        ("train.storage=/a\udcffb", "train.storage: holds"),
        ("data.shape=[8", "data.shape: the value .* is not valid YAML"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_key(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_settings(None, [override])
    assert "\n" not in str(caught.value)
