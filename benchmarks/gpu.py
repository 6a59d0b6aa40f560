"""One CUDA device in at most 8 minutes: the model at the paper's size in bfloat16, and its equality with the CPU.

    python -m benchmarks.gpu                                             on a CUDA device
    python -m benchmarks.gpu --device cpu --shape 4 16 16 --batches 1    a try without one

Needs the packages of the model alone, neither Ray nor MLflow; MONAI's network is beside ours where MONAI is installed.
Each part is a process of its own with a share of `--seconds`, after which it is stopped. A batch that does not fit the
memory is a row that says so. Exit code 1: a part failed, or the device differs from the CPU by more than the goal.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.device_timing import DeviceRun
from benchmarks.figures import say
from benchmarks.gpu_parts import beside_monai, equality, generation, registration, training
from benchmarks.networks import CONFIGS
from sadm_ray.config.settings_file import load_settings

_SECONDS = 450.0
"""Half a minute below 8 minutes, for the start."""


@dataclass(frozen=True)
class _Part:
    share: float
    measure: Callable[[DeviceRun], bool]


PARTS = {
    "equality": _Part(0.15, equality),
    "eager": _Part(0.15, partial(training, compiled=False)),
    "registration": _Part(0.05, registration),
    "generation": _Part(0.1, generation),
    "monai": _Part(0.15, beside_monai),
    "compiled": _Part(0.4, partial(training, compiled=True)),  # the last: it may take what the others left
}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of all parts together")
    parser.add_argument("--shape", type=int, nargs=3, default=[32, 128, 128], metavar=("D", "H", "W"))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "benchmarks.gpu: PyTorch sees no CUDA device; `--device cpu --shape 4 16 16 --batches 1` tries it without",
            file=sys.stderr,
        )
        sys.exit(2)
    end = time.monotonic() + options.seconds
    if not options.in_process:
        sys.exit(0 if _run_parts(options.parts, end) else 1)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # as a training worker does
    settings = load_settings(CONFIGS / "acdc.yaml", [f"data.shape={options.shape}"])
    run = DeviceRun(settings, device, tuple(options.batches), end)
    well = [PARTS[part].measure(run) for part in options.parts]
    sys.exit(0 if all(well) else 1)


def _run_parts(parts: Sequence[str], end: float) -> bool:
    """Each part in a process of its own, for its share of the time that is left; whether all went well."""
    well = True
    for place, part in enumerate(parts):
        shares = [PARTS[each].share for each in parts[place:]]
        seconds = max(end - time.monotonic(), 0.0) * shares[0] / sum(shares)
        own = ["--parts", part, "--seconds", str(seconds), "--in-process"]
        command = [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:], *own]
        with subprocess.Popen(command, start_new_session=True) as process:  # noqa: S603
            try:
                well = process.wait(timeout=seconds) == 0 and well
            except subprocess.TimeoutExpired:
                say(f"part {part}", None, "s", "lower", note=f"stopped after {seconds:.0f} s (--seconds)")
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with the processes that compile
    return well


if __name__ == "__main__":
    main()
