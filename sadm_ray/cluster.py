"""Finding or starting Ray, and making it quiet."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sadm_ray.config import RaySettings, Settings, is_url
from sadm_ray.errors import ConfigError

QUIET = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # or what workers print comes twice
    "RAY_USAGE_STATS_ENABLED": "0",  # patients' data is near: nothing is reported anywhere
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # or Ray Tune draws boxes on our terminal
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # or Ray's core complains on our terminal of how Ray Data makes its actors
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # by default a training that is done goes on for up to 2 s
}
PRIVATE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
"""For a Ray that was started here: nobody takes its machine away with a warning, which a process would wait for."""
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # more threads than free cores spin: measured 4 to 8 times slower
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),  # glibc else keeps freed volumes: measured 20 to 30 % more peak memory
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
}

LINE_SECONDS = 15.0
"""How often a line is printed while machines are missing."""


@contextmanager
def ray_session(settings: Settings) -> Iterator[None]:
    """Ray for the time of the block.

    Uses, in this order: a session that is already open in this process, the cluster at `ray.address` (`local`: never
    one), the one that `RAY_ADDRESS` names, one that was started on this machine by `ray start` (as on the head of
    `ray up`), and at last a new one on this machine. A cluster has to have `ray.nodes` machines first.

    Raises:
        ConfigError: the cluster that is named does not answer, or has too few machines.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    import ray

    if ray.is_initialized():
        yield
        return
    private = _connect(settings)
    try:
        _wait_for_nodes(settings.ray)
        with environment({key: value for key, value in PRIVATE.items() if private and key not in os.environ}):
            yield
    finally:
        ray.shutdown()


def _connect(settings: Settings) -> bool:
    """Find or start Ray; whether it was started."""
    import ray

    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    wanted = settings.ray.address or os.environ.get("RAY_ADDRESS")
    dead = _dead_cluster() if wanted in (None, "auto") else None
    if dead and wanted:
        raise ConfigError(f"ray.address: no Ray cluster answers at {dead}, the last one that was started here")
    if wanted != "local" and not dead:
        try:
            with _muted_stderr():
                ray.init(address=wanted or "auto", runtime_env={"env_vars": WORKER_ENVIRONMENT}, **quiet)
        except ConnectionError as error:
            if wanted:
                raise ConfigError(
                    f"ray.address: no Ray cluster answers at '{wanted}' ({str(error).splitlines()[0]})"
                ) from None
        else:
            _quieten()
            return False
    if (settings.ray.nodes or 1) > 1:
        raise ConfigError(
            f"ray.nodes: {settings.ray.nodes} machines were asked for, and no cluster was found; run this on its head, "
            "or name it in ray.address"
        )
    # Ray warns of four times as many processes as may start at once, which an ordinary step here already has.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    # A CPU here is a slot, not a core: workers, actors and the reading of their data must all find one.
    trainings = settings.tune.training.concurrent if settings.tune.sweep == "training" else 1
    compared = settings.compare.concurrent * settings.compare.workers
    workers = max(trainings * settings.train.workers, compared, settings.generate.actors)
    slots = max(os.cpu_count() or 1, workers + 1)
    with _muted_stderr(), environment(WORKER_ENVIRONMENT):
        ray.init(  # without a runtime_env, for which Ray starts processes anew instead of using those that it has ready
            address="local",
            num_cpus=slots,
            include_dashboard=False,
            object_store_memory=int(settings.ray.object_store_gb * 1e9),
            **quiet,
        )
    _quieten()
    return True


def _wait_for_nodes(wanted: RaySettings) -> None:
    """Return when the cluster has the wanted machines; print now and then how many have joined."""
    import ray

    start = due = time.monotonic()
    while wanted.nodes is not None and (there := sum(node["Alive"] for node in ray.nodes())) < wanted.nodes:
        now = time.monotonic()
        if now - start >= wanted.wait_seconds:
            raise ConfigError(
                f"ray.nodes: {wanted.nodes} machines were asked for, {there} came within {wanted.wait_seconds:g} s; "
                "look at `ray status` on the head for the others, ask for fewer, or wait longer with ray.wait_seconds"
            )
        if now >= due:
            due = now + LINE_SECONDS
            print(f"ray: {there}/{wanted.nodes} machines after {now - start:.0f} s", file=sys.stderr, flush=True)
        time.sleep(min(1.0, wanted.wait_seconds))


def _dead_cluster() -> str | None:
    """The address of this machine's last cluster, if that is dead: Ray would wait for it for many minutes, silently."""
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # noqa: S108  (Ray's own place)
    try:
        address = file.read_text(encoding="utf-8").strip()
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (FileNotFoundError, ValueError):
        return None
    except OSError:
        return address
    return None


def actor_beside_driver(kind: type, **options: Any) -> Any:
    """An actor that takes no CPU, on the machine of the caller: a worker's may be taken away at any time.

    The affinity is hard: a soft one was seen to place the actor elsewhere at once.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here, **options)(kind).remote()


def require_shared(location: str, key: str, mend: str) -> None:
    """Raise ConfigError when Ray has several machines and not every one sees this folder, a path or a URL.

    Nothing would fail by itself: each machine would write into a folder of its own.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if is_url(location) or len(nodes) < 2:
        return
    Path(location).mkdir(parents=True, exist_ok=True)
    mark = Path(location) / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    try:
        seen = [
            ray.remote(num_cpus=0)(Path.exists)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True))
            .remote(mark)
            for node in nodes
        ]
        answers = zip(nodes, ray.get(seen, timeout=60), strict=True)
        blind = [node["NodeManagerAddress"] for node, answer in answers if not answer]
    finally:
        mark.unlink()
    if blind:
        raise ConfigError(f"{key}: {location} is not seen by {', '.join(blind)}; {mend}, must be named")


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """These environment variables in the block, also for the processes that are begun in it."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Nothing of what Ray's core writes to the terminal itself; what goes wrong comes as an exception all the same."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _quieten() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours are shown, see `sadm_ray.progress`
    context.execution_options.preserve_order = True
    # A study smaller than the pool of actors is no reason to warn.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
