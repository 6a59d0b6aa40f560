from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sadm_ray.config import SAFE_NAME, Settings, flatten
from sadm_ray.config.settings_file import dump_settings, load_settings
from sadm_ray.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"


def test_the_phantom_file_spells_out_the_embedded_default() -> None:
    assert load_settings(CONFIGS / "phantom.yaml") == Settings()


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_every_config_loads_and_survives_a_round_trip(file: Path, tmp_path: Path) -> None:
    settings = load_settings(file)
    (tmp_path / "again.yaml").write_text(dump_settings(settings))
    assert load_settings(tmp_path / "again.yaml") == settings


def test_overrides_go_on_top_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("train: {steps: 7, batch_size: 4}\n")
    settings = load_settings(tmp_path / "s.yaml", ["train.steps=9", "model.denoiser.widths=[8,16]", "data.root=~/x"])
    assert (settings.train.steps, settings.train.batch_size) == (9, 4)
    assert settings.model.denoiser.widths == (8, 16)
    assert settings.data.root == str(Path("~/x").expanduser())


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.stepz=3", "train.stepz: no such setting; did you mean train.steps?"),
        ("trian.steps=3", "trian: no such setting; did you mean train?"),
        ("train.guidance_scale=3", "did you mean tune.guidance_scale?|did you mean sampling.guidance_scale?"),
        ("train.steps=many", "train.steps: input should be a valid integer, unable to parse string .* not 'many'"),
        ("train.steps=0", "train.steps: input should be greater than 0, not 0"),
        ("train=3", "train: input should be"),
        ("train.steps.more=3", "'steps' is a value|train.steps"),
        ("train.steps", "an override is written key=value"),
        ("=3", "an override is written key=value"),
        ("train.steps=[1", "train.steps: the value .* is not valid YAML"),
        ("data.shape=[7,32,32]", "data.shape: d is 7, .* the nearest size that fits is 8, or"),
        ("train.workers=17", "train: 17 workers cannot share batch_size 16"),
        ("data.split.val=0.9", "must stay below 1"),
        ("run.name=../elsewhere", "run.name: use letters"),
        ("generate.at=[1,.inf]", "generate.at.1: input should be a finite number"),
        ("generate.at=[.nan]", "generate.at.0: input should be a finite number"),
        ("generate.at=[1,-1e30]", "generate.at.1: input should be greater than or equal to -1"),
        ("generate.tasks=[{name: Predictions, observed: [0], targets: [1]}]", "'Predictions' is a file or folder of"),
        (
            "generate.tasks=[{name: a, observed: [0], targets: [1]}, {name: A, observed: [0], targets: [1]}]",
            "two tasks are called 'a'",
        ),
        ("generate.tasks=[{name: a, observed: [0], targets: [8]}]", "frame 8 of 'a' lies outside the 8 frames"),
        ("generate.tasks=[{name: a, observed: [1], targets: [1]}]", "frame 1 of task 'a' is both"),
        ("tune.guidance_scale=[2,1]", r"guidance_scale is a range"),
        ("tune.guidance_scale=[-2,1]", r"guidance_scale is a range: \[low, high\] with -1 <= low"),
        ("sampling.guidance_scale=-1.5", "greater than or equal to -1"),
        ("sampling.temperature=0", "sampling.temperature: .*greater than 0"),
        ("diffusion.prediction=eps", "does not go with model.prior"),
        ("diffusion.log_snr_min=20", "log_snr_min must be below"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_settings(None, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "no such settings file"), ("a: [1", "line 1: not valid YAML"), ("- 1", "expected keys and values")],
)
def test_a_bad_file_is_one_line_that_names_it(text: str | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_settings(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_override_is_taken_or_refused_politely(text: str) -> None:
    try:
        load_settings(None, [text])
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017  (most texts are refused, some are not)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().train.steps = 3


def test_flat_keys_are_the_overrides_that_make_them() -> None:
    flat = flatten(Settings())
    assert flat["train.steps"] == Settings().train.steps
    assert flat["model.denoiser.widths"] == Settings().model.denoiser.widths


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/etc", "", "a b", "-x", "a\n", "x" * 200])
def test_names_cannot_leave_their_folder(name: str) -> None:
    assert not SAFE_NAME.fullmatch(name)
