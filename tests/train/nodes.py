"""A training on a cluster of three nodes, one of which is killed and then replaced: `python -m tests.train.nodes`."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from sadm_ray import steps
from sadm_ray.config.settings_file import load_settings
from sadm_ray.train import trainer

QUICK = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 8,
    # A node without free CPUs ends idle processes after a second: every pass over the study would start new ones.
    "idle_worker_killing_time_threshold_ms": 600_000,
}


class Watched:
    """A training in a thread of its own, watched by its checkpoints."""

    def __init__(self, file: Path, checkpoints: Path) -> None:
        self.checkpoints, self.sizes, self.facts = checkpoints, list[int](), dict[str, Any]()
        self._thread = threading.Thread(target=lambda: self.facts.update(steps.train(load_settings(file)).facts))
        self._thread.start()

    def state(self) -> tuple[int, int]:
        """The step of the newest checkpoint, and the number of its workers."""
        found = sorted(self.checkpoints.glob("checkpoint-*/manifest.json"))
        try:
            state = json.loads((found[-1].parent / "state.json").read_text())
        except (IndexError, OSError):  # none yet, or removed a moment ago
            return 0, 0
        if not self.sizes or self.sizes[-1] != state["workers"]:
            self.sizes.append(state["workers"])
        return state["step"], state["workers"]

    def wait(self, condition: Callable[[int, int], bool]) -> float:
        """Wait until the condition holds of a checkpoint or the training is over; returns the seconds."""
        start = time.monotonic()
        while self._thread.is_alive() and not condition(*self.state()):
            time.sleep(0.05)
        return time.monotonic() - start


def main(file: Path, checkpoints: Path, out: Path) -> None:
    """Train with the settings in `file`, lose a node and get another; write a report to `out`."""
    trainer._RESIZE_SECONDS = 5.0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": QUICK})
    _, second = (cluster.add_node(num_cpus=1) for _ in range(2))
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    training = Watched(file, checkpoints)
    training.wait(lambda step, workers: step >= 20 and workers == 2)
    cluster.remove_node(second, allow_graceful=False)
    lost_at, _ = training.state()
    recovered = training.wait(lambda step, workers: workers == 1)
    cluster.add_node(num_cpus=1)
    grown = training.wait(lambda step, workers: workers == 2)
    training.wait(lambda step, workers: False)
    report = {"recovered": recovered, "grown": grown, "lost at": lost_at, "sizes": training.sizes}
    out.write_text(json.dumps({"facts": training.facts, **report}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
