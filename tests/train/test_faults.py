"""Training under faults: a full disk, a SIGTERM, a changed byte; and with storage on S3."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from sadm_ray import steps
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import dump_settings, with_values
from sadm_ray.data.shards.prepared_study import read_study
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.train.checkpoint import Checkpoints
from tests.processes import start
from tests.tiny import settings_on

pytestmark = pytest.mark.ray


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB; where it may not be mounted the test is skipped."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    made = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=False)
    if not made or made.returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run([str(umount), str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_costs_a_checkpoint_and_one_line(
    shards: str, small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = settings_on(tmp_path / "undisturbed", shards, steps=8)
    steps.train(undisturbed)
    checkpoint = next((undisturbed.run_dir / "model.ray" / "checkpoints").glob("checkpoint-*"))
    size = sum(file.stat().st_size for file in checkpoint.iterdir())
    # The first checkpoint has room, the second has not, until the ballast is removed.
    settings = settings_on(tmp_path, shards, storage=str(small_disk), steps=8, checkpoint_every=2)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 3 * size // 2))
    kept = Checkpoints(f"{small_disk}/tiny/checkpoints")
    with pytest.raises(DataError, match=r"step 8 cannot be written \(.*[Nn]o space left on device"):
        steps.train(settings)
    lines = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert len(lines) == 3, "one line for each checkpoint that had no room"
    assert all(str(small_disk) in line and "training goes on" in line for line in lines)
    newest = kept.newest()
    assert newest is not None
    assert newest.step == 2
    ballast.unlink()
    steps.train(settings)
    newest = kept.newest()
    assert newest is not None
    assert newest.step == 8
    assert_same(settings, undisturbed)


def assert_same(one: Settings, other: Settings) -> None:
    """The trained models are the same, bit by bit."""
    first, second = (load_file(settings.run_dir / "model" / "model.safetensors") for settings in (one, other))
    assert first.keys() == second.keys()
    assert all((first[key] == second[key]).all() for key in first)


@pytest.mark.slow
def test_a_changed_byte_costs_a_checkpoint_and_one_line(
    shards: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shorter = settings_on(tmp_path, shards, steps=4)
    steps.train(shorter)
    file = shorter.run_dir / "model.ray" / "checkpoints" / "checkpoint-00000004" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    longer = settings_on(tmp_path, shards, steps=6)
    steps.train(longer)
    lines = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(lines) == 1
    assert "weights.safetensors" in lines.pop()
    undisturbed = settings_on(tmp_path / "undisturbed", shards, steps=6)
    steps.train(undisturbed)
    assert_same(longer, undisturbed)


def test_a_scan_of_nan_stops_training_with_its_name(
    shards: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Preparation refuses such a scan; here one stands for whatever else makes a loss NaN.
    settings = settings_on(tmp_path, shards, steps=8, max_bad_steps=2, learning_rate=1e30, spike_factor=None)
    with pytest.raises(
        DataError, match=r"training broke down: the gradients of 2 steps .* look at the scans of patient0"
    ):
        steps.train(settings)
    bad = [record.message for record in caplog.records if record.message.startswith("step 2: the gradient is nan")]
    assert len(bad) == 1, "and is not tried again and again"


@pytest.mark.slow
def test_checkpoints_on_an_object_store(shards: str, tmp_path: Path, s3_bucket: str) -> None:
    runs = f"{s3_bucket}/runs"
    for count in (2, 4):
        steps.train(settings_on(tmp_path, shards, storage=runs, steps=count))
    kept = Checkpoints(f"{runs}/tiny/checkpoints")
    assert kept.storage.folders() == ["checkpoint-00000002", "checkpoint-00000004"]
    newest = kept.newest()
    assert newest is not None
    assert newest.step == 4
    undisturbed = settings_on(tmp_path / "undisturbed", shards, steps=4)
    steps.train(undisturbed)
    assert_same(settings_on(tmp_path, shards), undisturbed)


@pytest.mark.slow
def test_sigterm_saves_and_leaves(shards: str, tmp_path: Path) -> None:
    settings = settings_on(tmp_path, shards, steps=4000, checkpoint_every=100_000)
    file, log = tmp_path / "settings.yaml", tmp_path / "log"
    file.write_text(dump_settings(settings))
    job = start("train", "--config", str(file), log=log)
    wait_for(lambda: "samples/s" in log.read_text() or job.poll() is not None, 600)
    sent = time.monotonic()
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) == 143, log.read_text()
    assert time.monotonic() - sent < 120
    newest = Checkpoints(str(settings.run_dir / "model.ray" / "checkpoints")).newest()
    assert newest is not None
    assert 0 < newest.step < 4000
    assert f"stopped after step {newest.step} of 4000, which is saved" in log.read_text()
    assert not (settings.run_dir / "model").exists()


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_early_stopping_takes_the_best(shards: str, tmp_path: Path) -> None:
    # With this rate the loss soon rises: training ends long before its last step.
    validation = {"loss_every": 2, "generate_every": 0, "patience": 2}
    settings = settings_on(tmp_path, shards, steps=400, learning_rate=0.5, spike_factor=None, validation=validation)
    trained = steps.train(settings)
    assert trained.facts["step"] < 400
    kept = Checkpoints(str(settings.run_dir / "model.ray" / "checkpoints"))
    best, newest = kept.verified("best"), kept.newest()
    assert best is not None
    assert newest is not None
    assert best.step < newest.step == trained.facts["step"]
    assert newest.metadata["ended_early"]
    used = (settings.run_dir / "model" / "model.safetensors").read_bytes()
    assert used == best.read("ema-0.99.safetensors")
    began = newest.step
    assert steps.train(settings).facts["step"] == began, "it is done: again is nothing at all"


def test_a_gpu_that_is_not_there_is_refused(shards: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.device: 1 workers want a GPU each, the cluster has 0"):
        steps.train(settings_on(tmp_path, shards, device="gpu"))


@pytest.fixture(scope="module")
def trained(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A run that was trained without a fault; read it, do not change it."""
    validation = {"loss_every": 2, "generate_every": 6}
    folder = tmp_path_factory.mktemp("trained")
    settings = settings_on(folder, shards, steps=6, ema_decays=[0.9, 0.5], validation=validation)
    steps.train(settings)
    return settings


def test_a_changed_setting_is_refused(trained: Settings) -> None:
    with pytest.raises(ConfigError, match=r"run\.name: tiny .* train\.learning_rate \(0\.002 before, 0\.001 now\)"):
        steps.train(with_values(trained, {"train.learning_rate": 0.001}))


def test_what_training_logs_to_mlflow(trained: Settings, shards: str) -> None:
    from mlflow import MlflowClient

    from sadm_ray.tracking import tracking_uri

    settings = trained
    client = MlflowClient(tracking_uri(settings))
    experiment = client.get_experiment_by_name("sadm-ray")
    run = next(run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == "tiny/train")
    metrics = run.data.metrics
    wanted = {
        "loss", "learning_rate", "grad_norm", "samples_per_second", "tflops_per_second", "data_wait_fraction",
        "memory/process_gb", "system/cpu_utilization_percentage", "val_loss", "val_loss/ema-0.9", "val_loss/ema-0.5",
        "val_psnr", "val_copy_last", "val_ssim", "val_copy_last_ssim", "val_nrmse", "val_gain", "steps_not_used",
        "val_losses/noise_0-0.2",
    }  # fmt: skip
    assert wanted <= set(metrics)
    assert any(name.startswith("losses/noise_") for name in metrics)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val_loss")] == [2, 4, 6]
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "validation")]
    assert pictures == ["validation/step-00000006.png"]
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == read_study(shards).content[:36]
    (version,) = client.search_model_versions("name='tiny'")
    assert version.run_id == run.info.run_id
    assert (settings.run_dir / "model" / "ema-0.5.safetensors").exists()
