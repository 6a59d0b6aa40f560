"""Finding or starting Ray, and making it quiet."""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sadm_ray.config import RaySettings, Settings, is_url
from sadm_ray.errors import ConfigError, RayLostError
from sadm_ray.interruption import AGAIN, is_interrupted, while_ray_starts
from sadm_ray.private_ray import private_folder, recorded_cluster, started_cluster
from sadm_ray.ray_watch import answers, kill_children, watched

QUIET = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # or what workers print comes twice
    "RAY_USAGE_STATS_ENABLED": "0",  # patients' data is near: nothing is reported anywhere
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours, and a sweep goes on from what it has written anyway
    "RAY_AIR_NEW_OUTPUT": "0",  # or Ray Tune draws boxes on our terminal
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # or Ray's core complains on our terminal of how Ray Data makes its actors
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # by default a training that is done goes on for up to 2 s
}
_IS_PRIVATE = "SADM_RAY_IS_PRIVATE"
PRIVATE = {
    _IS_PRIVATE: "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes its machine away with a warning
}
"""Environment of this process and the workers, with a Ray that was started here."""
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # more threads than free cores spin: measured 4 to 8 times slower
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),  # glibc else keeps freed volumes: measured 20 to 30 % more peak memory
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
}

log = logging.getLogger(__name__)

_QUIET_OPTIONS: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}

STARTS = 5
"""How often a private Ray is started before the command gives up: Ray waits 30 s for its own processes, which is too
short where several commands start at once on few cores."""

LINE_SECONDS = 15.0
"""How often a line is printed while machines are missing."""


@contextmanager
def ray_session(settings: Settings) -> Iterator[None]:
    """Ray for the time of the block.

    Uses, in this order: a session that is already open in this process, the cluster at `ray.address` (`local`: never
    one), the one that `RAY_ADDRESS` names, one that `ray start` began or joined on this machine (as on the head of `ray
    up`), and at last a new one on this machine that no other command joins. A cluster has to have `ray.nodes` machines
    first.

    Raises:
        ConfigError: the cluster that is named does not answer, or has too few machines.
        RayLostError: Ray has ended within the block. A command of ours then ends at once, see `sadm_ray.ray_watch`.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    import ray

    if ray.is_initialized():
        yield
        return
    address = _cluster_to_join(settings)
    with ExitStack() as stack:
        if address is None:
            folder = stack.enter_context(private_folder())
            stack.callback(_leave, private=True)
            _start(settings, folder)
        else:
            stack.callback(_leave, private=False)
            _join(address)
        _quieten()
        stack.enter_context(watched(private=address is None))
        if address is None:
            stack.enter_context(environment(PRIVATE))
        _wait_for_nodes(settings.ray)
        yield


def is_private() -> bool:
    """Whether the Ray of this process, the command's or a worker's, was started by a command of ours for itself."""
    return os.environ.get(_IS_PRIVATE) == "1"


def _cluster_to_join(settings: Settings) -> str | None:
    """Its address; none: a Ray of our own is wanted."""
    wanted = settings.ray.address or os.environ.get("RAY_ADDRESS") or None
    if wanted not in (None, "auto", "local"):
        return wanted
    found = started_cluster() if wanted != "local" else None
    if found is not None and answers(found):
        with while_ray_starts():  # Ray's logger says on the terminal that there is a token
            _use_token()
        return found
    if wanted == "auto":
        dead = found or recorded_cluster()
        named = f"at {dead}, the last one that was started here" if dead else "here; begin one with `ray start --head`"
        raise ConfigError(f"ray.address: no Ray cluster answers {named}")
    if (settings.ray.nodes or 1) > 1:
        raise ConfigError(
            f"ray.nodes: {settings.ray.nodes} machines were asked for, and no cluster was found; run this on its head, "
            "or name it in ray.address"
        )
    return None


def _join(address: str) -> None:
    import ray

    try:
        with while_ray_starts():
            ray.init(address=address, runtime_env={"env_vars": WORKER_ENVIRONMENT}, **_QUIET_OPTIONS)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:  # dead, no address, no token
        reason = str(error).splitlines()[0]
        raise ConfigError(f"ray.address: no Ray cluster can be joined at '{address}' ({reason})") from None


def _start(settings: Settings, folder: Path) -> None:
    import ray

    # Ray warns of four times as many processes as may start at once, which an ordinary step here already has.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    # A CPU here is a slot, not a core: workers, actors and the reading of their data must all find one.
    trainings = settings.tune.training.concurrent if settings.tune.sweep == "training" else 1
    compared = settings.compare.concurrent * settings.compare.workers
    workers = max(trainings * settings.train.workers, compared, settings.generate.actors)
    slots = max(os.cpu_count() or 1, workers + 1)
    for start in range(STARTS):
        try:
            # Without a runtime_env, for which Ray starts processes anew instead of using those that it has ready.
            with while_ray_starts(), environment(WORKER_ENVIRONMENT | PRIVATE):
                ray.init(
                    address="local",
                    num_cpus=slots,
                    include_dashboard=False,
                    object_store_memory=int(settings.ray.object_store_gb * 1e9),
                    _temp_dir=str(folder),
                    **_QUIET_OPTIONS,
                )
        except (OSError, ValueError):
            raise
        except Exception as error:  # Ray has no class for it: "timed out during startup", after a fixed 30 s
            kill_children()
            if start == STARTS - 1:
                reason = str(error).partition("\n")[0]
                raise RayLostError(
                    f"Ray could not be started in {STARTS} attempts ({reason}); is the machine very busy? {AGAIN}"
                ) from error
        else:
            return


def _use_token() -> None:
    """`ray start` protects a head by its user's token; Ray looks for it only where it has found the cluster itself."""
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _leave(private: bool) -> None:
    """Close Ray; after a signal at once, by ending its processes, since its own way takes seconds."""
    import ray

    if not is_interrupted():
        ray.shutdown()
    elif private:
        kill_children()  # also those of a Ray that was being started


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


def actor_beside_driver(kind: type, **options: Any) -> Any:
    """An actor that takes no CPU, on the machine of the caller: a worker's may be taken away at any time.

    The affinity is hard: a soft one was seen to place the actor elsewhere at once.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here, **options)(kind).remote()


def warn_of_idle(key: str, asked: int, busy: int, work: str) -> None:
    """Say at once, in a line, that a part of what a setting asks for will have nothing to do.

    Args:
        busy: how many of the `asked` have work; `work` says what that is.
    """
    if busy < asked:
        log.warning("%s: %d asked for, and there is work for %d (%s); the others stay idle", key, asked, busy, work)


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


def _quieten() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours are shown, see `sadm_ray.progress`
    context.execution_options.preserve_order = True
    # A study smaller than the pool of actors is no reason to warn.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
