"""What a laptop does with two machines that only ssh reaches: `ray up`, `ray submit`, `ray job submit`, `ray down`.

The machines are those of two-hosts.sh, which says by environment variables where they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
HOSTS = {name: os.environ.get(name.upper(), "") for name in ("head", "worker")}
BIN = Path(sys.executable).parent
SHELL = "export PATH={path}:$PATH PYTHONPATH=~/sadm-ray OMP_NUM_THREADS=1 RAY_AUTH_MODE=token"


@dataclass(frozen=True)
class Cluster:
    """The cluster of a file that `ray up` has brought up; `shared` is a folder that all machines see."""

    file: Path
    shared: Path

    def ray(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """A command of Ray's, such as `submit`, as a user types it in the repository; never raises over its code."""
        return _run(str(BIN / "ray"), *arguments, timeout=timeout)

    def submit(self, pipeline: str, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """`ray submit` of a pipeline; the arguments go through a shell on the head."""
        return self.ray("submit", str(self.file), f"pipelines/{pipeline}.py", "--", *arguments, timeout=timeout)


@dataclass(frozen=True)
class Actor:
    """An actor that there is or was: its id, the name of its class, and the machine it ran on."""

    id: str
    name: str
    host: str


def actors() -> set[Actor]:
    """All that Ray knows of. It keeps the dead for five minutes after their job has ended (seen with 2.60)."""
    told = on("head", f"source ~/.bashrc; python -c {shlex.quote(_ACTORS)}", timeout=120)
    hosts = {address: name for name, address in HOSTS.items()}
    return {Actor(each, name, hosts[address]) for each, name, address in json.loads(told)}


_ACTORS = """
import json
from ray.util.state import list_actors, list_nodes
nodes = {node.node_id: node.node_ip for node in list_nodes()}
found = list_actors(detail=True, limit=10000)
print(json.dumps([[each.actor_id, each.class_name, nodes[each.node_id]] for each in found if each.node_id]))
"""


def on(host: str, command: str, timeout: float = 60) -> str:
    """What a shell command on a machine prints; it may fail. What it complains of is said."""
    asked = ["ssh", *_SSH, f"root@{HOSTS[host]}", command]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=timeout, check=False)
    print(told.stderr, file=sys.stderr, end="")
    return told.stdout


def cluster_file(folder: Path, repository: Path = REPOSITORY) -> Path:
    """cluster/local.yaml with these two machines in it, which have no network: what it would install is there."""
    tree = yaml.safe_load((repository / "cluster" / "local.yaml").read_text())
    tree["provider"] |= {"head_ip": HOSTS["head"], "worker_ips": [HOSTS["worker"]]}
    tree["auth"] = {"ssh_user": "root", "ssh_private_key": os.environ["SSH_KEY"]}
    tree["initialization_commands"] = [f"grep -qs PYTHONPATH ~/.bashrc || echo '{SHELL.format(path=BIN)}' >> ~/.bashrc"]
    tree["setup_commands"] = tree["setup_commands"][:1]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):  # two workers have to be on two machines
        tree[key] = [command.replace("ray start", "ray start --num-cpus=1") for command in tree[key]]
    file = folder / "local.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


@contextlib.contextmanager
def up(folder: Path) -> Iterator[Cluster]:
    """The cluster for the time of the block."""
    os.environ["RAY_AUTH_MODE"] = "token"
    token = Path.home() / ".ray" / "auth_token"
    if not token.exists():
        _run(str(BIN / "ray"), "get-auth-token", "--generate")
    shared = Path(os.environ["W"]) / "shared"
    shared.mkdir(exist_ok=True)
    cluster = Cluster(cluster_file(folder), shared)
    for _ in range(3):  # Ray waits 30 s for its own processes, which is too short on a busy machine
        begun = cluster.ray("up", "--yes", "--no-config-cache", str(cluster.file))
        if begun.returncode == 0:
            break
    assert begun.returncode == 0, begun.stdout[-3000:] + begun.stderr[-3000:]
    try:
        yield cluster
    finally:
        cluster.ray("down", "--yes", str(cluster.file))


_SSH = ("-i", os.environ.get("SSH_KEY", ""), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        "-o", "LogLevel=ERROR")  # fmt: skip


def _run(*command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
    )
