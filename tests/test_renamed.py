"""What was made under old names goes on working: settings files, stored models, checkpoints, runs in progress."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sadm_ray.config import Settings
from sadm_ray.config.renamed_settings import LATER, RENAMED, current_name, with_current_names, with_former_names
from sadm_ray.config.settings_file import dump_settings, load_settings
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import load_model
from sadm_ray.storage import Storage
from sadm_ray.train.checkpoint import Checkpoints
from sadm_ray.train.resume_check import RUN, refuse_changes
from sadm_ray.tune.trial_history import History
from tests.data.studies import made_row, write_study
from tests.train import runs

OLD_FILE = """
model:
  guess: { widths: [16, 16], blocks: 1 }
  blend: true
train: { single: 0.4 }
tune:
  of: training
  training:
    space: { model.guess.widths: [[16, 16], [16, 32]], train.single: { low: 0.1, high: 0.5 } }
"""
NEW_FILE = """
model:
  prior: { widths: [16, 16], blocks: 1 }
  frame_blending: true
train: { single_frame: 0.4 }
tune:
  sweep: training
  training:
    space: { model.prior.widths: [[16, 16], [16, 32]], train.single_frame: { low: 0.1, high: 0.5 } }
"""
OLD_WEIGHTS = {  # name now → name then
    "prior_network.": "guesser.",
    "frame_blending.": "blend.",
    "time_warp.log_rate.": "pace.log_pace.",
}


def old_weight(name: str) -> str:
    for now, then in OLD_WEIGHTS.items():
        if name.startswith(now):
            return then + name.removeprefix(now)
    return name


def model() -> SequenceModel:
    return runs.model(frame_blending=True)


def old_config(config: ModelConfig) -> dict[str, Any]:
    tree = json.loads(config.model_dump_json())
    tree["model"]["guess"], tree["model"]["blend"] = tree["model"].pop("prior"), tree["model"].pop("frame_blending")
    return tree


def test_an_old_settings_file_means_what_it_meant(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "old.yaml").write_text(OLD_FILE)
    (tmp_path / "new.yaml").write_text(NEW_FILE)
    new = load_settings(tmp_path / "new.yaml")
    assert not caplog.records
    assert load_settings(tmp_path / "old.yaml") == new
    (record,) = caplog.records
    assert record.message == (
        f"{tmp_path / 'old.yaml'}: model.guess is model.prior, model.blend is model.frame_blending, train.single is "
        "train.single_frame, tune.of is tune.sweep, model.guess.widths is model.prior.widths now; old names still work"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.guess.widths=[16,16]", "model.prior.widths=[16,16]"),
        ("model.guess=null", "model.prior=null"),
        ("model={guess: null, blend: false}", "model={prior: null, frame_blending: false}"),
        ("train.single=0.1", "train.single_frame=0.1"),
        (
            "tune.training.space={model.blend: [true, false]}",
            "tune.training.space={model.frame_blending: [true, false]}",
        ),
        ("tune={of: training}", "tune={sweep: training}"),
    ],
)
def test_an_old_override_means_what_it_meant(old: str, new: str, caplog: pytest.LogCaptureFixture) -> None:
    rest = ["model.target=difference"] if "null" in old else []
    assert load_settings(None, [old, *rest]) == load_settings(None, [new, *rest])
    assert any("old names still work" in record.message for record in caplog.records)


def test_both_names_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text("model: { blend: true, frame_blending: false }")
    with pytest.raises(ConfigError, match=r"model\.blend: is called model\.frame_blending now, and both are given"):
        load_settings(tmp_path / "both.yaml")


def test_an_override_with_the_old_name_goes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(NEW_FILE)
    assert not load_settings(tmp_path / "new.yaml", ["model.blend=false"]).model.frame_blending


def test_new_names_are_settings_and_old_ones_are_not() -> None:
    known = dump_settings(Settings())
    for old, new in RENAMED.items():
        assert f"{new.rpartition('.')[2]}:" in known
        assert current_name(old) == new
        assert current_name(f"{old}.widths") == f"{new}.widths"
        assert current_name(f"{old}x") == f"{old}x"


def test_names_of_folders_are_hashed_from_what_they_were() -> None:
    tree = load_settings(None).model_dump(mode="json")
    former = with_former_names(tree)
    assert "guess" in former["model"]
    assert "model.guess.widths" in former["tune"]["training"]["space"]
    for key in LATER:
        assert not tree["train"].pop(key), "left out of what is hashed while it is empty"
    assert with_current_names(former) == tree


def test_an_old_model_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored = model()
    stored.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(old_config(stored.config)))
    weights = load_file(tmp_path / "model.safetensors")
    old = {old_weight(name): tensor for name, tensor in weights.items()}
    assert {name.partition(".")[0] for name in old} >= {"guesser", "blend", "pace"}
    save_file(old, tmp_path / "model.safetensors")
    read = load_model(tmp_path)
    assert read.config == stored.config
    for (name, one), (_, other) in zip(stored.named_parameters(), read.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert [record.message for record in caplog.records if "config.json: model.guess is model.prior" in record.message]


@pytest.mark.parametrize("content", ["[]", "null", "1", '"model"', "{", '{"model": []}'])
def test_a_config_that_is_none_is_refused_in_a_line(content: str, tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config\.json: not a model's config \([^\n]+\)$"):
        load_model(tmp_path)


def test_an_old_checkpoint_is_read(tmp_path: Path) -> None:
    checkpoints, now = Checkpoints(str(tmp_path)), model()
    names = [name for name, _ in now.named_parameters()]
    moments = {f"momentum_buffer.{name}": torch.full((2,), float(place)) for place, name in enumerate(names)}
    state = {
        "weights": {old_weight(name): torch.full((2,), float(place)) for place, name in enumerate(names)},
        "ema-0.9": {old_weight(name): torch.full((2,), float(place)) for place, name in enumerate(names)},
        "optimizer": {
            **{f"momentum_buffer.{old_weight(key.partition('.')[2])}": value for key, value in moments.items()},
            "updates.ema-0.9": torch.tensor(7),
        },
    }
    checkpoints.write(now.config, state, {"step": 3})
    newest = checkpoints.newest()
    assert newest is not None
    tensors = newest.tensors()
    for file in ("weights", "ema-0.9"):
        assert {name: int(tensor[0]) for name, tensor in tensors[file].items()} == {n: p for p, n in enumerate(names)}
    assert set(tensors["optimizer"]) == {*moments, "updates.ema-0.9"}


def test_a_run_that_was_begun_under_old_names_goes_on(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", [made_row("a", np.zeros((2, 4, 16, 16)))], {"train": ["a"]})
    storage, settings, config = Storage(str(tmp_path / "run")), Settings(), model().config
    now = refuse_changes(settings, study, config, storage)
    then = {
        key.replace("model.prior", "model.guess")
        .replace("model.frame_blending", "model.blend")
        .replace("train.single_frame", "train.single"): value
        for key, value in now.items()
    }
    assert {"model.guess.widths", "model.blend", "train.single"} <= set(then)
    storage.write(RUN, json.dumps(then).encode())
    assert refuse_changes(settings, study, config, storage) == now
    storage.write(RUN, json.dumps({**then, "train.single": 0.9}).encode())
    with pytest.raises(ConfigError, match=r"train\.single_frame \(0\.9 before"):
        refuse_changes(settings, study, config, storage)


def test_a_sweep_that_was_begun_under_old_names_knows_its_trials(tmp_path: Path) -> None:
    entry = {"trial": "a", "point": {"model.guess.widths": "[16, 16]", "num_steps": 2}}
    (tmp_path / "history.jsonl").write_text(json.dumps(entry) + "\n")
    (trial,) = History(tmp_path / "history.jsonl").unfinished
    assert trial.point == {"model.prior.widths": "[16, 16]", "num_steps": 2}
