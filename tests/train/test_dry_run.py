"""The dry run: its numbers are consistent, memory is really measured, and nothing is written."""

import os
import signal
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from sadm_ray.cli import main
from sadm_ray.config import (
    ConditionerSettings,
    CovariateSettings,
    DataSettings,
    DenoiserSettings,
    GenerateSettings,
    ModelSettings,
    NetworkSettings,
    RunSettings,
    Settings,
    TaskSettings,
)
from sadm_ray.data.shards.prepared_study import Study, data_digest
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.train import dry_run, step_profile
from sadm_ray.train.dry_run import ASSUMED_FRAMES, DryRun, estimate, extrapolate
from sadm_ray.train.step_profile import StepProfile, profile_step
from sadm_ray.train.train_state import TrainState
from sadm_ray.train.trainer import model_config
from tests.train import runs
from tests.train.runs import SETTINGS, Run

SMALL = ModelSettings(
    conditioner=ConditionerSettings(widths=(8, 16), heads=2, layers=1, channels=4),
    prior=NetworkSettings(widths=(16, 16), blocks=1, heads=2),
    denoiser=DenoiserSettings(widths=(16, 16), blocks=1, heads=2),
)
OVERRIDES = (
    "data.shape=[4,16,16]", "data.frames=4", "generate.tasks=[{name: last, observed: [0], targets: [-1]}]",
    "model.conditioner={widths: [8,16], heads: 2, layers: 1, channels: 4}",
    "model.prior={widths: [16,16], blocks: 1, heads: 2}", "model.denoiser={widths: [16,16], blocks: 1, heads: 2}",
)  # fmt: skip
MEASURED = StepProfile("cpu", "float32", {1: 0.5, 2: 0.75}, {1: 1.0e9, 2: 1.1e9}, 0.25, 2e9)


def settings(tmp_path: Path, **train: object) -> Settings:
    return Settings(
        run=RunSettings(name="dry", dir=tmp_path),
        data=DataSettings(shape=(4, 16, 16), frames=4),
        model=SMALL,
        train=SETTINGS.model_copy(update={"workers": 2, "batch_size": 6, **train}),
        generate=GenerateSettings(tasks=(TaskSettings(name="last", observed=(0,), targets=(-1,)),)),
    )


def study(settings: Settings, **changes: object) -> Study:
    splits = {"train": ("a", "b", "c"), "val": ("d",)}
    prepared = Study("there", data_digest(settings), "p", "c", 4, (4, 16, 16), "s", splits, 0.2)
    return replace(prepared, **changes)  # type: ignore[arg-type]


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured."""
    monkeypatch.setattr(dry_run, "profile_step", lambda *_, **__: MEASURED)


def estimated(settings: Settings) -> DryRun:
    return estimate(settings, study(settings))


@pytest.mark.usefixtures("instant")
def test_sizes_are_those_of_a_train_state_in_training(tmp_path: Path) -> None:
    run = Run()
    run.step(0)
    train_state: TrainState = run.train_state
    held = [
        state
        for p in train_state.bare.parameters()
        for state in train_state.optimizer.moments(p).values()
        if state.ndim
    ]
    found = estimated(settings(tmp_path))
    assert found.parameters == train_state.bare.describe()
    size = found.state
    assert size["weights"] == size["gradients"] == sum(p.nbytes for p in train_state.bare.parameters())
    assert size["averages"] == sum(w.nbytes for average in train_state.averages.values() for w in average.weights)
    assert size["optimizer"] == pytest.approx(sum(moment.nbytes for moment in held), rel=0.02)
    saved = sum(tensor.nbytes for tensors in train_state.state().values() for tensor in tensors.values())
    assert found.checkpoint == pytest.approx(saved, rel=0.01)


@pytest.mark.usefixtures("instant")
def test_fsdp_shares_the_state_and_nothing_else(tmp_path: Path) -> None:
    whole, shared = estimated(settings(tmp_path)), estimated(settings(tmp_path, parallel="fsdp"))
    assert shared.state == {name: size / 2 for name, size in whole.state.items()}
    assert whole.peak_memory - shared.peak_memory == pytest.approx(sum(whole.state.values()) / 2)
    assert shared.checkpoint == whole.checkpoint
    assert shared.batch == whole.batch


@pytest.mark.usefixtures("instant")
def test_a_step_is_its_passes_and_its_update(tmp_path: Path) -> None:
    found = estimated(settings(tmp_path, micro_batch=2))
    assert (found.local_batch_size, found.micro_batch) == (3, 2)
    assert found.seconds_per_step == 0.75 + 0.5 + 0.25
    assert found.seconds == 10 * found.seconds_per_step
    assert found.flops == 10 * 6 * 2e9
    frames = 4 * 4 * 16 * 16 * 4
    assert found.batch == 3 * frames
    assert found.peak_memory == 1.1e9 + frames + found.pool


@pytest.mark.usefixtures("instant")
def test_peak_memory_grows_with_the_micro_batch(tmp_path: Path) -> None:
    peaks = [estimated(settings(tmp_path, micro_batch=samples)).peak_memory for samples in (1, 2, 3)]
    assert peaks == sorted(set(peaks))


def test_extrapolating_never_shrinks() -> None:
    assert extrapolate({1: 2.0, 2: 3.0}, 4) == 5.0
    assert extrapolate({1: 2.0, 2: 2.5, 4: 3.5}, 8) == 5.5
    assert extrapolate({1: 2.0, 2: 2.5, 4: 3.5}, 2) == 2.5
    assert extrapolate({1: 2.0, 2: 1.9}, 4) == 2.0
    assert extrapolate({1: 2.0}, 1) == 2.0


def test_memory_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    wanted = settings(tmp_path).model_copy(update={"data": DataSettings(shape=(16, 64, 64), frames=4)})
    config = model_config(wanted, study(wanted, shape=(16, 64, 64)))
    before, ballast = dict(os.environ), bytearray(b"1") * 1_500_000_000
    found = profile_step(wanted, config, 4, 2)
    assert os.environ == before
    assert (
        len(ballast) > found.peak[2] >= found.peak[1]
    )  # this process's memory is not in it; imports may hide two samples
    assert found.too_many is None
    assert min(found.seconds.values()) > 0
    assert found.flops > 1e6


def killed_at_the_second(sender: Connection, *_: object) -> None:
    sender.send(StepProfile("cpu", "float32", {1: 0.5}, {1: 1.0e9}))
    os.kill(os.getpid(), signal.SIGKILL)


def test_measurements_before_an_out_of_memory_kill_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_profile, "_measure", killed_at_the_second)
    wanted = settings(tmp_path)
    found = profile_step(wanted, model_config(wanted, study(wanted)), 4, 3)
    assert (found.too_many, found.seconds) == (2, {1: 0.5})


@pytest.mark.parametrize("then", ["stop", "halve"])
def test_a_batch_that_does_not_fit_is_the_same_error_as_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    one = StepProfile("cpu", "float32", {1: 0.5}, {1: 1.0e9}, 0.25, 2e9, too_many=2)
    monkeypatch.setattr(dry_run, "profile_step", lambda *_, **__: one)
    wanted = settings(tmp_path, on_out_of_memory=then)
    if then == "stop":
        with pytest.raises(ConfigError, match=r"train.micro_batch below 2"):
            estimated(wanted)
    else:
        assert estimated(wanted).micro_batch == 1
        assert any("2 samples at a time did not fit" in line for line in estimated(wanted).lines())


def test_a_volume_larger_than_the_memory_is_a_mistake_in_settings(tmp_path: Path) -> None:
    huge = settings(tmp_path).model_copy(update={"data": DataSettings(shape=(4096, 4096, 4096), frames=4)})
    with pytest.raises(ConfigError, match=r"1 samples of 4 frames of 4096×4096×4096 .* cpu worker"):
        estimate(huge, None)


@pytest.mark.usefixtures("instant")
def test_what_training_refuses_is_refused(tmp_path: Path) -> None:
    wanted = settings(tmp_path)
    with pytest.raises(DataError, match="no subjects to train on"):
        estimate(wanted, study(wanted, subjects={"test": ("a",)}))
    with pytest.raises(DataError, match="frames of every training subject are equal"):
        estimate(wanted, study(wanted, difference_scale=0.0))
    begun = tmp_path / "dry" / "model.ray" / "checkpoints" / "run.json"
    begun.parent.mkdir(parents=True)
    begun.write_text('{"seed": 5}')
    with pytest.raises(ConfigError, match="begun with other settings"):
        estimated(wanted)


@pytest.mark.usefixtures("instant")
def test_a_prepared_study_is_described_and_nothing_is_written(tmp_path: Path) -> None:
    wanted = settings(tmp_path)
    text = "\n".join(estimated(wanted).lines())
    assert "train 3, val 1 subjects, 4 frames of 4×16×16" in text
    assert "6 over 2 workers, 3 each" in text
    assert "measured on this machine" in text
    assert estimated(wanted).read == (20, 60)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("instant")
def test_a_number_of_visits_is_assumed_where_all_are_kept(tmp_path: Path) -> None:
    found = estimate(settings(tmp_path).model_copy(update={"data": DataSettings(shape=(4, 16, 16), frames=None)}), None)
    assert found.frames == ASSUMED_FRAMES
    assert any("16 are assumed" in line for line in found.lines())


def test_the_command_line_prints_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--dry-run", f"run.dir={tmp_path}", "train.steps=7", *OVERRIDES])
    out = capsys.readouterr().out
    assert not ended.value.code
    assert "phantom, 7 steps" in out
    assert "not prepared yet" in out
    assert "peak memory" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mistake", ["train.stpes=3", "train.batch_size=1"])
def test_a_mistake_in_settings_ends_the_dry_run(mistake: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--dry-run", mistake])
    assert ended.value.code == 2


def test_shards_of_other_settings_are_refused(tmp_path: Path) -> None:
    wanted = settings(tmp_path)
    replace(study(wanted), location=str(tmp_path / "phantom" / "shards"), digest="other").write()
    with pytest.raises(SystemExit) as ended:
        main(["train", "--dry-run", f"run.dir={tmp_path}", *OVERRIDES])
    assert ended.value.code == 2


def test_planned_covariates_are_measured_too() -> None:
    arm = CovariateSettings(name="arm", of="visit", levels=("A", "B"), planned=True)
    for covariates in ((), (arm,)):
        passes = step_profile._Passes(
            Settings(train=SETTINGS), runs.model(covariates=covariates).config, 4, torch.device("cpu")
        )
        planned = passes._batch(2).planned
        assert (planned is None) == (not covariates)
        passes._forward_backward(passes.usual, 2)
