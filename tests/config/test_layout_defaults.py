"""Defaults for visits where a layout of visits is given and no settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from sadm_ray.config import Settings
from sadm_ray.config.settings_file import load_settings

LOGGER = "sadm_ray.config.layout_defaults"


@pytest.mark.parametrize("layout", ["bids", "manifest"])
def test_visits_are_prepared_as_in_the_brain_file(layout: str, caplog: pytest.LogCaptureFixture) -> None:
    brain = load_settings("brain")
    caplog.clear()
    settings = load_settings(None, [f"data.layout={layout}", "data.root=/study"])
    assert settings.data.frames is None
    assert settings.data.orientation == "canonical"
    assert settings.data.intensity == brain.data.intensity
    assert settings.generate.tasks == brain.generate.tasks
    assert (settings.data.shape, settings.model, settings.train) == (
        Settings().data.shape,
        Settings().model,
        Settings().train,
    )
    (line,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    for part in (f"data.layout={layout}", "data.frames=null", "data.orientation=canonical", "configs/brain.yaml"):
        assert part in line
    assert "data.intensity.method=percentile, data.intensity.over=visit" in line
    assert "generate.tasks taken from" in line
    assert "\n" not in line


def test_what_is_given_stays(caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings(None, ["data.layout=bids", "data.frames=8", "data.intensity={over: all}"])
    assert settings.data.frames == 8
    assert (settings.data.intensity.over, settings.data.intensity.method) == ("all", "percentile")
    assert settings.generate.tasks == Settings().generate.tasks, "which are for slots"
    (line,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert "frames" not in line
    caplog.clear()
    all_given = [
        "data.frames=8",
        "data.orientation=native",
        "data.intensity={method: minmax, over: first, within: volume}",
    ]
    all_given.append("data.layout=manifest")
    assert load_settings(None, all_given).data == Settings.model_validate({"data": {"layout": "manifest"}}).data
    assert not caplog.records


@pytest.mark.parametrize(
    "overrides", [[], ["data.layout=acdc", "data.root=/acdc"], ["data.layout=bids", "generate.study=/new"]]
)
def test_all_else_is_as_it_was(overrides: list[str], caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings(None, overrides)
    assert (settings.data.frames, settings.data.orientation) == (8, "native")
    assert settings.data.intensity == Settings().data.intensity
    assert not caplog.records


def test_a_settings_file_means_what_it_meant(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: {layout: bids}\n")
    assert load_settings(file) == Settings.model_validate({"data": {"layout": "bids"}})
    file.write_text("run: {name: x}\n")
    assert load_settings(file, ["data.layout=bids"]).data == Settings.model_validate({"data": {"layout": "bids"}}).data
    assert not caplog.records


@pytest.mark.parametrize("override", ["data.intensity=3", "generate=3", "data.frames=[1]"])
def test_mistakes_are_still_named(override: str) -> None:
    with pytest.raises(Exception, match=override.partition("=")[0]):
        load_settings(None, ["data.layout=bids", override])
