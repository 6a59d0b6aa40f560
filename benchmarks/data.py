"""The data pipeline: its loss of precision, its memory, its speed, and whether training waits for it.

    python -m benchmarks.data                    all figures
    python -m benchmarks.data --subjects 400     a smoke test: its ratios mean nothing

Each part runs in a process of its own. Figures go to standard output, a JSON line each; all else to standard error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.data_reading import reading
from benchmarks.data_roundtrip import round_trip
from benchmarks.data_scale import scale
from benchmarks.data_study import ENVIRONMENT
from benchmarks.data_throughput import throughput

REAL_DATA = Path(os.environ.get("SADM_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real-data", type=Path, default=REAL_DATA, help="the folder of real scans")
    parser.add_argument("--subjects", type=int, default=20_000, help="of the largest study; others follow")
    parser.add_argument("--part", choices=PARTS, help="one part, in this process")
    options = parser.parse_args()
    if options.part:
        PARTS[options.part](options)
        return
    for part in PARTS:
        start = time.monotonic()
        command = [sys.executable, "-m", "benchmarks.data", *sys.argv[1:], "--part", part]
        subprocess.run(command, check=True, env=os.environ | ENVIRONMENT)  # noqa: S603
        print(f"{part}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "round-trip": lambda options: round_trip(options.real_data),
    "scale": lambda options: scale(options.subjects),
    "throughput": lambda options: throughput(max(options.subjects // 20, 100)),
    "reading": lambda _: reading(),
}

if __name__ == "__main__":
    main()
