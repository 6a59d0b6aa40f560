"""The settings files that come with the package, by name, from any folder."""

from pathlib import Path

import pytest

from sadm_ray.cli import main
from sadm_ray.config.presets import preset_file, preset_names
from sadm_ray.config.settings_file import load_settings
from sadm_ray.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that holds nothing."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_file_has_its_name() -> None:
    assert preset_names() == sorted(file.stem for file in CONFIGS.glob("*.yaml"))
    assert {"phantom", "acdc_small", "acdc", "acdc_paper", "brain"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_a_name_is_the_same_as_the_path(name: str) -> None:
    file = preset_file(name)
    assert file is not None
    assert file.read_bytes() == (CONFIGS / f"{name}.yaml").read_bytes()
    assert load_settings(name, ["train.steps=7"]) == load_settings(CONFIGS / f"{name}.yaml", ["train.steps=7"])


def test_a_file_of_this_name_wins(elsewhere: Path) -> None:
    (elsewhere / "acdc").write_text("run: {name: mine}\n")
    assert load_settings(Path("acdc")).run.name == "mine"


def test_a_folder_of_this_name_hides_nothing(elsewhere: Path) -> None:
    (elsewhere / "acdc").mkdir()
    assert load_settings(Path("acdc")).run.name == "acdc"


@pytest.mark.parametrize("file", ["acdc_smal", "acdc.yaml", "configs/acdc", ".."])
def test_anything_else_is_a_path(file: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_an_unknown_name_is_one_line_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"acdc_smal: no such settings file; .*acdc, acdc_paper, acdc_small, brain"):
        load_settings("acdc_smal")


def test_the_command_line_takes_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["settings", "--config", "acdc_small"])
    assert not stopped.value.code
    assert "  name: acdc-small\n" in capsys.readouterr().out
