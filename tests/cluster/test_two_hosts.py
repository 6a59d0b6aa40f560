"""`ray submit cluster/local.yaml`, for real: two machines that ssh reaches, made of namespaces by two-hosts.sh.

`make test-cluster` runs these as the laptop between them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from sadm_ray.config.settings_file import with_values
from tests.cluster.laptop import BIN, REPOSITORY, Actor, Cluster, actors, on, up
from tests.tiny import settings_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif("WORKER" not in os.environ, reason="needs two machines: `make test-cluster`"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with up(tmp_path_factory.mktemp("cluster")) as brought:
        yield brought


@pytest.fixture(scope="module")
def settings_file(cluster: Cluster) -> Path:
    """Settings of a tiny study in the shared folder, for two workers and two actors.

    The actors have far more to do than they take to begin: else the first to come, on one machine, would do it all.
    """
    tiny = settings_for(cluster.shared, steps=12, workers=2, checkpoint_every=4)
    much = {"split": "all", "actors": 2, "batch_size": 1, "tuned": False}
    settings = with_values(
        tiny, {**{f"generate.{key}": value for key, value in much.items()}, "sampling.num_steps": 300}
    )
    file = cluster.shared / "settings.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True)))
    return file


def hosts_of(name: str, made: Iterable[Actor]) -> set[str]:
    """The machines that actors of this class ran on."""
    return {each.host for each in made if each.name.partition("(")[0] == name}


def test_the_whole_way_over_both_machines(cluster: Cluster, settings_file: Path, tmp_path: Path) -> None:
    """Two workers on two machines, actors on both, waited for by `ray.nodes`; the report is fetched."""
    ended = cluster.submit("run", "--config", str(settings_file), "ray.nodes=2")
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
    made = actors()
    assert hosts_of("RayTrainWorker", made) == {"head", "worker"}
    assert hosts_of("MapWorker", made) == {"head", "worker"}, sorted((each.name, each.host) for each in made)
    run = cluster.shared / "tiny"
    assert len(list(run.glob("generated/**/*.nii.gz"))) > 0
    fetched = cluster.ray("rsync-down", str(cluster.file), str(run / "report.html"), str(tmp_path / "report.html"))
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path / "report.html").read_bytes() == (run / "report.html").read_bytes()


def test_the_model_goes_to_machines_that_do_not_see_its_folder(cluster: Cluster, settings_file: Path) -> None:
    """The run's folder is the head's own; only shards and volumes are shared."""
    on("head", f"mkdir -p /root/own/alone && cp -r {cluster.shared}/tiny/model /root/own/alone/")
    shared = (f"data.shards={cluster.shared}/tiny/shards", f"generate.out={cluster.shared}/apart")
    where = ("run.dir=/root/own", "run.name=alone", *shared)
    for step in ("generate", "evaluate"):
        before = actors()
        ended = cluster.submit(step, "--config", str(settings_file), *where)
        assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
        assert step == "evaluate" or hosts_of("MapWorker", actors() - before) == {"head", "worker"}
    assert len(list((cluster.shared / "apart").glob("**/*.nii.gz"))) > 0
    assert "report.html" in on("head", "ls /root/own/alone")
    assert not (cluster.shared / "alone").exists()


def test_the_code_is_that_which_ray_up_copied(cluster: Cluster) -> None:
    for host in ("head", "worker"):
        where = on(host, "source ~/.bashrc; python -c 'import sadm_ray; print(sadm_ray.__file__)'")
        assert where.strip() == "/root/sadm-ray/sadm_ray/__init__.py", host


def test_too_few_machines_are_said_in_a_line(cluster: Cluster, settings_file: Path) -> None:
    ended = cluster.submit("train", "--config", str(settings_file), "ray.nodes=5", "ray.wait_seconds=3")
    assert ended.returncode == 1  # `ray submit` knows no other; ours is 2
    assert "ray.nodes: 5 machines were asked for, 2 came within 3 s" in ended.stdout + ended.stderr


def test_a_folder_of_one_machine_is_refused(cluster: Cluster, settings_file: Path) -> None:
    """The head's own /root is not the worker's."""
    where = ("run.dir=/root/runs", "run.name=alone", "data.shards=/root/runs/shards")
    prepared = cluster.submit("prepare", "--config", str(settings_file), *where)
    assert prepared.returncode == 1
    assert f"is not seen by {os.environ['WORKER']}" in prepared.stdout + prepared.stderr


def test_ray_job_submit(cluster: Cluster, settings_file: Path) -> None:
    """The folder as it is now, arguments as given, and the driver's own exit code."""
    bringing = [BIN / "ray", "dashboard", str(cluster.file)]
    forward = subprocess.Popen(bringing, cwd=REPOSITORY, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        address = ("--address", "http://127.0.0.1:8265", "--working-dir", ".")
        asked = ("--", "python", "pipelines/evaluate.py", "--config", str(settings_file))
        for _ in range(20):
            ended = cluster.ray("job", "submit", "--submission-id", "fine", *address, *asked)
            if "Failed to connect" not in ended.stdout + ended.stderr:
                break
            time.sleep(1)
        assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
        assert "copy-last" in ended.stdout
        failed = cluster.ray("job", "submit", "--submission-id", "wrong", *address, *asked, "train.stepz=3")
        assert failed.returncode == 1
        assert "did you mean train.steps" in failed.stdout + failed.stderr
        asking = "from ray.job_submission import JobSubmissionClient as C; print(C('http://127.0.0.1:8265')"
        code = subprocess.run(
            [BIN / "python", "-c", f"{asking}.get_job_info('wrong').driver_exit_code)"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert code.stdout.strip() == "2"
    finally:
        os.killpg(forward.pid, signal.SIGTERM)  # with its ssh; SIGINT is ignored below a shell's background job
        forward.wait(30)


def test_a_machine_dies_in_the_middle_and_the_training_ends_by_itself(cluster: Cluster, settings_file: Path) -> None:
    run = cluster.shared / "killed"
    asked = ("run.name=killed", "train.steps=400", "train.min_workers=1", f"data.shards={cluster.shared}/tiny/shards")
    job = subprocess.Popen(
        [BIN / "ray", "submit", str(cluster.file), "pipelines/train.py", "--", "--config", str(settings_file), *asked],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    checkpoints, end = run / "model.ray" / "checkpoints", time.monotonic() + 300
    while not list(checkpoints.glob("checkpoint-*/manifest.json")) and time.monotonic() < end:
        assert job.poll() is None, job.communicate()[0][-4000:]
        time.sleep(0.2)
    on("worker", "pkill -9 raylet")
    said, _ = job.communicate(timeout=800)
    assert job.returncode == 0, said[-4000:]
    newest = max(checkpoints.glob("checkpoint-*/state.json"))
    assert json.loads(newest.read_text())["step"] == 400
    assert (run / "model" / "model.safetensors").exists()


def test_ray_down_leaves_no_process(cluster: Cluster) -> None:
    """The head ends at once, a worker by itself when it misses its head."""
    ended = cluster.ray("down", "--yes", str(cluster.file))
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    end = time.monotonic() + 120
    for host in ("head", "worker"):
        while any(name in on(host, "ps -eo comm") for name in ("raylet", "gcs_server")):
            assert time.monotonic() < end, on(host, "ps -eo pid,args")
            time.sleep(1)
