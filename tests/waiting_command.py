"""A command of ours that waits in Ray for ever: `python -m tests.waiting_command get|data`.

It goes the way of all commands (`take_signals`, `cli.main`, `ray_session`) without the seconds of their imports.
"""

from __future__ import annotations

import sys
import time

from sadm_ray.interruption import take_signals

if __name__ == "__main__":
    take_signals()
    import ray

    from sadm_ray import cli
    from sadm_ray.cluster import ray_session
    from sadm_ray.config import Settings

    def for_ever(row: dict[str, int] | None = None) -> None:
        time.sleep(3600)

    @cli.app.command()
    def wait(kind: str, hold: float = 0.0) -> None:
        """Say `ready`, wait in one of Ray's ways, and take `hold` seconds to close."""
        with ray_session(Settings()):
            print("ready", ray.get_runtime_context().gcs_address, flush=True)
            try:
                if kind == "data":
                    ray.data.range(4).map(for_ever).materialize()
                ray.get(ray.remote(for_ever).remote())
            finally:
                time.sleep(hold)

    cli.main(["wait", *sys.argv[1:]])
