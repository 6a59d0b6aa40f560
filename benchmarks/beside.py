"""The model's speed beside another checkout's: both in one run, by turns, one thread each.

    python -m benchmarks.beside ../other     some minutes

Prints the CPU seconds of this checkout, and their ratio to the other's. Each part is the least of the rounds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.figures import say
from benchmarks.networks import CONFIGS, forward_backward, full_batch, our_model
from sadm_ray.cluster import WORKER_ENVIRONMENT
from sadm_ray.config.settings_file import load_settings
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.model.registration import register
from sadm_ray.train.gradient_guard import GradientGuard
from sadm_ray.train.train_state import TrainState
from sadm_ray.train.train_step import train_step

_HERE = Path(__file__).parents[1]
_MEASURE = """
import sys
sys.path.insert(0, {checkout!r})
import sadm_ray  # the other's, with all of its modules
sys.path[0] = {here!r}
from benchmarks.beside import measure
measure()
"""
_SUBJECTS = 8

Work = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of another checkout")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    with ExitStack() as stack:
        checkouts = [stack.enter_context(_measuring(folder)) for folder in (_HERE, options.other.resolve())]
        for part in options.parts:
            spent: list[list[float]] = [[], []]
            for _ in range(1 + options.rounds):
                for seconds, checkout in zip(spent, checkouts, strict=True):
                    seconds.append(_asked(checkout, part))
            this, other = (min(seconds[1:]) for seconds in spent)  # the first one warms up
            say(part, this, "CPU s", "lower")
            say(f"{part}, this over the other", this / other, "1", "lower")


@contextmanager
def _measuring(checkout: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with the package of a checkout, which does the parts whose names it reads."""
    code = _MEASURE.format(checkout=str(checkout), here=str(_HERE))
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", code],
        env=os.environ | WORKER_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _asked(process: subprocess.Popen[str], part: str) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(part + "\n")
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"{part}: the process that measures it has ended; its message is above")
    return float(answer)


def measure() -> None:
    """For each part whose name comes in, its CPU seconds go out."""
    torch.set_num_threads(1)
    ready: dict[str, Work] = {}
    for line in sys.stdin:
        part = line.strip()
        if part not in ready:
            ready = {part: PARTS[part]()}  # one at a time, for its memory
        start = time.process_time()
        ready[part]()
        print(time.process_time() - start, flush=True)


def _registration(size: tuple[int, int, int], pairs: int) -> Work:
    rough = torch.rand(2, pairs, 1, *size, generator=torch.Generator().manual_seed(0))
    first, second = (functional.avg_pool3d(each, 3, 1, 1) for each in rough)
    return partial(register, first, second)


def _training_step() -> Work:
    """Of `configs/acdc_small.yaml` with everything that belongs to it, in bfloat16 where the CPU has it."""
    settings = load_settings(CONFIGS / "acdc_small.yaml")
    state, guard = TrainState(our_model(settings), settings.train), GradientGuard(settings.train)
    batch, rng = full_batch(settings, _SUBJECTS), SampleRng(0, 0, range(_SUBJECTS), _SUBJECTS)
    return partial(train_step, state, guard, batch, rng, settings.train, 0)


def _frames(observed: list[int], targets: list[int]) -> Work:
    """Eight samples of one subject's frames, with the settings of `configs/acdc_small.yaml`."""
    settings = load_settings(CONFIGS / "acdc_small.yaml")
    model, batch = our_model(settings).eval(), full_batch(settings)
    known = torch.zeros_like(batch.present)
    known[:, observed] = True
    wanted, seeds = batch.times[:, targets], list(range(settings.generate.samples))

    def generate() -> None:
        encoded = model.observe(batch.frames, known, batch.times, precision=settings.sampling.precision)
        model.roll_out(encoded, wanted, seeds, settings.sampling)

    return generate


PARTS: dict[str, Callable[[], Work]] = {
    "registration of 8 pairs of 8 × 64 × 64": partial(_registration, (8, 64, 64), 8),
    "registration of a pair of 32 × 128 × 128": partial(_registration, (32, 128, 128), 1),
    "registration of a pair of 48 × 64 × 56, no slices": partial(_registration, (48, 64, 56), 1),
    "acdc_small: training step of 8": _training_step,
    "acdc_small: 8 samples of a frame after three": lambda: _frames([0, 3, 6], [-1]),
    "acdc_small: 8 samples of ten frames between two": lambda: _frames([0, -1], list(range(1, 11))),
    "acdc: training sample, float32": lambda: forward_backward(load_settings(CONFIGS / "acdc.yaml")),
    "acdc: training sample, bfloat16": lambda: forward_backward(
        load_settings(CONFIGS / "acdc.yaml"), precision="bfloat16"
    ),
}

if __name__ == "__main__":
    main()
