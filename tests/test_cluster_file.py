"""The cluster files against Ray's own check and KubeRay's fields, and all of them against what we pin."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sadm_ray.config.settings_file import load_settings
from tests.kuberay import RAY_JOB

ROOT = Path(__file__).parents[1]
RAY_UP = ("cluster.yaml", "cluster/gcp.yaml", "cluster/local.yaml")


def read(file: str) -> Any:
    return yaml.safe_load((ROOT / file).read_text())


def check(tree: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` does with a file before it connects to anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(tree)
    validate_config(prepared)
    return prepared


def put(tree: Any, dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        tree = tree[int(parent)] if isinstance(tree, list) else tree[parent]
    tree[last] = value


def images() -> Iterator[str]:
    for file in RAY_UP[:2]:
        docker = read(file)["docker"]
        yield from (docker["head_image"], docker["worker_image"])
    yield from re.findall(r"rayproject/ray:\S+", (ROOT / "Dockerfile").read_text())


def pinned_ray() -> str:
    found = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("file", RAY_UP)
def test_rays_own_check_accepts_it(file: str) -> None:
    prepared = check(read(file))
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert file.endswith("local.yaml") or head["max_workers"] == 0


@pytest.mark.parametrize(
    ("file", "key"),
    [
        *((file, "max_wrokers") for file in RAY_UP),
        *((file, "auth.ssh_usr") for file in RAY_UP),
        *((file, "docker.container") for file in RAY_UP[:2]),
        *((file, "available_node_types.gpu.min_worker") for file in RAY_UP[:2]),
    ],
)
def test_the_check_sees_a_wrong_key(file: str, key: str) -> None:
    tree = read(file)
    put(tree, key, 4)
    with pytest.raises(jsonschema.ValidationError, match=key.rpartition(".")[2]):
        check(tree)


@pytest.mark.parametrize("file", RAY_UP)
def test_a_default_of_rays_that_would_hurt_is_overridden(file: str) -> None:
    tree = read(file)
    head, *_ = (command for command in tree["head_start_ray_commands"] if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in head
    assert "--disable-usage-stats" in head
    assert any(remote.endswith("/.ray/auth_token") for remote in tree["file_mounts"])
    everything = (ROOT / file).read_text()
    assert "RAY_AUTH_MODE=token" in everything
    assert ("RAY_enable_autoscaler_v2=0 ray start" in head) == (tree["provider"]["type"] == "local")
    if tree["provider"]["type"] == "aws":  # by default Ray takes an Ubuntu 18.04
        assert all(node["node_config"]["ImageId"] for node in tree["available_node_types"].values())


def test_every_image_has_the_ray_and_the_python_that_we_pin() -> None:
    found = list(images())
    assert len(found) >= 6
    for image in found:
        assert re.fullmatch(rf"rayproject/ray:{re.escape(pinned_ray())}-py311-(cpu|gpu)", image), image
    assert read("cluster/rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned_ray()


def test_kuberays_fields_are_used_as_they_are() -> None:
    jsonschema.validate(read("cluster/rayjob.yaml"), RAY_JOB)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shutdownAfterJobFinishes", True),
        ("spec.shutdownAfterJobFinish", True),
        ("spec.ttlSecondsAfterFinished", "600"),
        ("spec.rayClusterSpec.rayVersion", 2.6),
        ("spec.rayClusterSpec.authOptions.mode", "none"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.container", []),
        ("spec.rayClusterSpec.workerGroupSpecs.0.maxReplica", 4),
        ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.env", [{"name": "A", "value": 0}]),
        ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.resource", {}),
    ],
)
def test_a_wrong_field_of_a_rayjob_is_seen(key: str, value: Any) -> None:
    tree = read("cluster/rayjob.yaml")
    put(tree, key, value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, RAY_JOB)


def commands() -> Iterator[tuple[str, list[str]]]:
    """The jobs that the files show: in the comments of those for `ray up`, and the entrypoint of the RayJob."""
    for file in RAY_UP:
        comments = "".join(line.lstrip("# ") for line in (ROOT / file).read_text().splitlines(keepends=True)[:12])
        found = re.search(r"^ray submit .*?(?<!\\)$", comments, re.MULTILINE | re.DOTALL)
        assert found, file
        yield file, shlex.split(found[0].replace("\\\n", " "))[5:]  # after: ray submit FILE SCRIPT --
    yield "cluster/rayjob.yaml", shlex.split(read("cluster/rayjob.yaml")["spec"]["entrypoint"])[2:]


@pytest.mark.parametrize(
    ("file", "arguments"), list(commands()), ids=lambda part: part if isinstance(part, str) else ""
)
def test_the_jobs_that_the_files_show_have_real_settings(file: str, arguments: list[str]) -> None:
    option, config, *overrides = arguments
    assert option == "--config"
    settings = load_settings(ROOT / config[config.index("configs/") :], overrides)
    tree = read(file)
    if file.endswith("local.yaml"):
        machines = 1 + len(tree["provider"]["worker_ips"])
    elif file.endswith("rayjob.yaml"):
        machines = 1 + tree["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplicas"]
    else:
        machines = 1 + tree["available_node_types"]["gpu"]["min_workers"]
    assert settings.ray.nodes == machines
    assert str(settings.run.dir).startswith("/shared/")


def test_the_image_gets_nothing_but_what_is_copied() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    sources = {source for line in re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE) for source in line.split()[1:-1]}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source.partition("/")[0] for source in sources} == allowed
    assert all((ROOT / source).exists() for source in sources)
    assert re.search(r"^USER 1000$", dockerfile, re.MULTILINE)
