"""Checkpoints are complete or ignored, and are read as they were written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sadm_ray.config import Settings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.storage import Storage
from sadm_ray.train.async_checkpoint import AsyncCheckpointWriter
from sadm_ray.train.checkpoint import MANIFEST, Checkpoints
from sadm_ray.train.resume_check import refuse_changes
from sadm_ray.train.training_progress import TrainingProgress
from tests.data.studies import made_row, write_study
from tests.train.runs import Run


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path: Path, warnings: list[str]) -> Checkpoints:
    """Two checkpoints of a run, of steps 1 and 2."""
    checkpoints, run = Checkpoints(str(tmp_path / "kept"), keep=2, warn=warnings.append), Run()
    for step in range(2):
        run.step(step)
        checkpoints.write(run.train_state.bare.config, run.train_state.state(), {"step": step + 1})
    return checkpoints


def files(kept: Checkpoints, folder: str = "checkpoint-00000002") -> list[Path]:
    return sorted((Path(kept.storage.location) / folder).iterdir())


def test_a_resumed_run_equals_an_undisturbed_one_bit_by_bit(tmp_path: Path) -> None:
    checkpoints, undisturbed, resumed = Checkpoints(str(tmp_path)), Run(), Run()
    losses = undisturbed.steps(0, 3)
    checkpoints.write(undisturbed.train_state.bare.config, undisturbed.train_state.state(), {"step": 3})
    losses = undisturbed.steps(3, 6)
    newest = checkpoints.newest()
    assert newest is not None
    resumed.train_state.restore(newest.tensors())
    assert resumed.steps(newest.step, 6) == losses
    one, other = undisturbed.train_state.state(), resumed.train_state.state()
    assert {file: set(tensors) for file, tensors in one.items()} == {file: set(t) for file, t in other.items()}
    for file, tensors in one.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other[file][name]), (file, name)


def test_the_newest_are_kept(kept: Checkpoints) -> None:
    run = Run()
    run.step(0)
    kept.write(run.train_state.bare.config, run.train_state.state(), {"step": 3})
    assert kept.storage.folders() == ["checkpoint-00000002", "checkpoint-00000003"]
    newest = kept.newest()
    assert newest is not None
    assert newest.step == 3


@pytest.mark.parametrize("number", range(7))
def test_a_changed_byte_is_detected_and_the_checkpoint_before_is_used(
    kept: Checkpoints, warnings: list[str], number: int
) -> None:
    file = files(kept)[number]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    newest = kept.newest()
    assert newest is not None
    assert newest.step == 1
    assert len(warnings) == 1
    assert "checkpoint-00000002" in warnings[0]
    assert file.name in warnings[0] or file.name == MANIFEST


def test_a_missing_file_is_damage_and_a_missing_manifest_is_not(kept: Checkpoints, warnings: list[str]) -> None:
    files(kept)[-1].unlink()
    newest = kept.newest()
    assert newest is not None
    assert (newest.step, len(warnings)) == (1, 1)
    (Path(kept.storage.location) / "checkpoint-00000002" / MANIFEST).unlink()
    assert kept.newest() is not None
    assert len(warnings) == 1, "writing it was interrupted, which is no reason to warn"


@pytest.mark.parametrize("name", ["../../outside.safetensors", "{}/outside.safetensors", "../checkpoint-00000001/x"])
def test_a_checkpoint_that_names_files_of_others_is_damaged(kept: Checkpoints, warnings: list[str], name: str) -> None:
    location = Path(kept.storage.location)
    (location.parent / "outside.safetensors").write_bytes(b"mine")
    manifest = location / "checkpoint-00000002" / MANIFEST
    listed = json.loads(manifest.read_text())
    listed[name.format(location.parent)] = {"bytes": 4, "sha256": hashlib.sha256(b"mine").hexdigest()}
    manifest.write_text(json.dumps(listed))
    newest = kept.newest()
    assert newest is not None
    assert newest.step == 1
    assert "which is no file of it" in warnings[0]


def test_a_first_checkpoint_that_was_interrupted_is_no_damage(kept: Checkpoints, warnings: list[str]) -> None:
    for folder in kept.storage.folders():
        (Path(kept.storage.location) / folder / MANIFEST).unlink()
    assert (kept.newest(), warnings) == (None, [])


def test_only_damaged_checkpoints_are_an_error(kept: Checkpoints) -> None:
    for folder in kept.storage.folders():
        files(kept, folder)[-1].write_bytes(b"")
    with pytest.raises(DataError, match="every checkpoint in it is damaged"):
        kept.newest()
    assert Checkpoints(kept.storage.location + "-none").newest() is None


class Full(Storage):
    """A storage that is full."""

    def write(self, path: str, content: Any) -> None:
        if path.endswith("optimizer.safetensors"):
            raise OSError(28, "No space left on device")
        super().write(path, content)


def test_a_full_disk_is_warned_of_and_earlier_checkpoints_stay(kept: Checkpoints, warnings: list[str]) -> None:
    run = Run()
    run.step(0)
    writer = AsyncCheckpointWriter(kept, run.train_state.bare.config, warnings.append)
    room, kept.storage = kept.storage, Full(kept.storage.location)
    writer.start_write(run.train_state.state(), {"step": 3})
    writer.start_write(run.train_state.state(), {"step": 4})
    with pytest.raises(DataError, match=r"step 4 cannot be written \(No space left on device\)"):
        writer.finish(4)
    assert len(warnings) == 2
    newest = kept.newest()
    assert newest is not None
    assert newest.step == 2
    again = AsyncCheckpointWriter(kept, run.train_state.bare.config, warnings.append)
    kept.storage = room
    again.start_write(run.train_state.state(), {"step": 5})
    again.finish(5)
    newest = kept.newest()
    assert newest is not None
    assert newest.step == 5
    assert "checkpoint-00000003" not in room.folders(), "what was left half-written is removed"


def test_training_does_not_change_a_checkpoint_that_is_being_written(tmp_path: Path) -> None:
    run, checkpoints = Run(), Checkpoints(str(tmp_path))
    run.step(0)
    writer = AsyncCheckpointWriter(checkpoints, run.train_state.bare.config, print)
    state = run.train_state.state()
    expected = {name: tensor.clone() for name, tensor in state["weights"].items()}
    writer.start_write(state, {"step": 1})
    run.step(1)
    writer.finish(1)
    newest = checkpoints.newest()
    assert newest is not None
    for name, tensor in newest.tensors()["weights"].items():
        assert torch.equal(tensor, expected[name])


def one_subject(folder: Path) -> Study:
    return write_study(folder, [made_row("a", np.zeros((2, 2, 4, 4)))], {"train": ("a",), "val": (), "test": ()})


def test_a_changed_setting_is_refused_with_both_values(tmp_path: Path) -> None:
    study = one_subject(tmp_path / "study")
    storage, config = Storage(str(tmp_path / "kept")), Run().train_state.bare.config
    settings = Settings()

    def changed(**train: Any) -> Settings:
        return Settings.model_validate({"train": train})

    refuse_changes(settings, study, config, storage)
    for how in ({"workers": 1}, {"checkpoint_every": 7}, {"micro_batch": 2}, {"validation": {"subjects": 1}}):
        refuse_changes(changed(**how), study, config, storage)
    for what, line in (
        ({"learning_rate": 0.5}, r"train.learning_rate \(0.002 before, 0.5 now\)"),
        ({"steps": 500}, r"train.steps \(400 before, 500 now\)"),
        ({"augment": {"gain": 0.1}}, r"train.augment.gain \(0.0 before, 0.1 now\)"),
        ({"validation": {"patience": 3}}, r"train.validation.patience \(None before, 3 now\)"),
    ):
        with pytest.raises(ConfigError, match=line):
            refuse_changes(changed(**what), study, config, storage)


def test_a_longer_run_of_constant_rate_may_go_on(tmp_path: Path) -> None:
    study = one_subject(tmp_path / "study")
    storage, config = Storage(str(tmp_path / "kept")), Run().train_state.bare.config
    for steps in (100, 200):
        longer = Settings.model_validate({"train": {"schedule": "constant", "steps": steps}})
        refuse_changes(longer, study, config, storage)


def test_progress_survives_json(tmp_path: Path) -> None:
    study = one_subject(tmp_path)
    progress = TrainingProgress(
        step=7, epoch=2, guard={"usual": 0.1}, validated={"val_loss": 0.3}, best=-0.2, since_best=1
    )
    metadata = json.loads(json.dumps(progress.to_json(Settings(), study, 2)))
    assert TrainingProgress.from_json(metadata) == progress
    assert metadata["versions"]["torch"] == torch.__version__
    assert metadata["settings"]["train"]["steps"] == 400


def test_the_best_score_is_kept_and_patience_counted() -> None:
    settings = Settings.model_validate({"train": {"validation": {"patience": 2}}}).train
    progress = TrainingProgress()
    is_best = []
    for loss in (1.0, 0.8, 0.9, 0.7, 0.7):
        progress.validated = {"val_loss": loss}
        is_best.append(progress.update_best(settings))
    assert is_best == [True, True, False, True, False]
    assert progress.since_best == 1
