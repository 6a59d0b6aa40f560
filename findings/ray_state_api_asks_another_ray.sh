#!/usr/bin/env bash
# Ray's state API (`ray.util.state.list_nodes`, `get_actor`, ...) does not ask the Ray that the process is connected to.
# Without an address it asks the one that the last `ray start` on this machine wrote into its temporary folder, from a
# driver as from inside a task; a line in the log is all that says so. So a process of a local Ray sees the nodes of
# another cluster, and `get_actor` of a living actor of its own returns None. The documentation says that the address
# is found automatically.
# Ray Train relies on it: its PlacementGroupCleaner takes None for a dead controller and ends at once; and where the
# recorded Ray is gone, a short training waits 12 s for it at its end.
#
# Exits 0 while that is so, 1 when Ray behaves otherwise, 2 when the packages cannot be installed.
set -euo pipefail

folder=$(mktemp -d /tmp/f-XXXX)  # short, for the paths of Ray's sockets
trap 'kill "${head:-}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ray[default]==2.60.0" || exit 2
export RAY_TMPDIR="$folder" RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS RAY_API_SERVER_ADDRESS

"$folder/venv/bin/ray" start --head --num-cpus=1 --port=0 --dashboard-port=0 --block >"$folder/head.log" 2>&1 &
head=$!

cat >"$folder/ask.py" <<'PYTHON'
import sys
import time
from pathlib import Path

import ray
from ray.util.state import get_actor, list_nodes

record = Path(sys.argv[1]) / "ray" / "ray_current_cluster"
for _ in range(120):
    if record.exists():
        break
    time.sleep(0.5)
else:
    sys.exit("the head did not start")
time.sleep(10)  # its dashboard

ray.init(address="local", num_cpus=2, log_to_driver=False)


@ray.remote(num_cpus=0)
class Living:
    def id(self) -> str:
        return ray.get_runtime_context().get_actor_id()


@ray.remote(num_cpus=1)
def ask(actor: str) -> tuple[list[str], bool]:
    return [node.node_id for node in list_nodes()], get_actor(actor) is None


living = Living.remote()
actor = ray.get(living.id.remote())
own = [node["NodeID"] for node in ray.nodes()]
print(f"ray {ray.__version__}, Python {sys.version.split()[0]}; this Ray has one node, a head elsewhere has another")
same = True
for where, (nodes, lost) in {
    "driver": ([node.node_id for node in list_nodes()], get_actor(actor) is None),
    "task": ray.get(ask.remote(actor)),
}.items():
    foreign = bool(nodes) and not set(nodes) & set(own)
    print(f"{where:6s} list_nodes: {'another Ray' if foreign else 'its own'}; "
          f"get_actor of a living actor: {'None' if lost else 'found'}", flush=True)
    same = same and foreign and lost
print("as found: another Ray answers" if same else "CHANGED: Ray behaves otherwise now")
sys.exit(not same)
PYTHON

"$folder/venv/bin/python" "$folder/ask.py" "$folder"
