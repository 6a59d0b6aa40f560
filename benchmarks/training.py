"""The overhead of training over its mathematics, and the speed-up by a second worker.

    python -m benchmarks.training                    all parts, one after another (about 25 minutes on 2 cores)
    python -m benchmarks.training --part scaling     one: scaling, overhead, checkpoint or paper

The model and volumes are those of `configs/phantom.yaml`. Let nothing else run: two workers need both cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import say
from benchmarks.recorded import recorded_value
from sadm_ray.cluster import WORKER_ENVIRONMENT
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import load_settings

CONFIGS = Path(__file__).parents[1] / "configs"
STEPS = 40
QUIET = {"loss_every": 0, "generate_every": 0}


def _settings(folder: Path, name: str, size: int = 32, **train: Any) -> Settings:
    common = {"steps": STEPS, "log_every": 5, "checkpoint_every": STEPS, "warmup_steps": 5, "validation": QUIET}
    return Settings.model_validate(
        {
            "run": {"name": name, "dir": str(folder)},
            "data": {"shards": str(folder / f"shards-{size}"), "shape": [8, size, size]},
            "train": {**common, **train},
        }
    )


def _rate(settings: Settings) -> float:
    """Samples per second of a training under Ray: the median of its records, without the first ones."""
    from sadm_ray import steps
    from sadm_ray.tracking import step_history

    steps.train(settings)
    values = [
        value
        for step, value in step_history(settings, "train", "samples_per_second")
        if step > settings.train.steps // 4
    ]
    print(f"{settings.run.name}: {[round(value, 1) for value in values]} samples/s", file=sys.stderr, flush=True)
    return statistics.median(values)


def scaling(folder: Path) -> None:
    """One worker and two, alternating; each has 16 samples a step (weak scaling), then both share 16 (strong)."""
    from sadm_ray import steps

    for size, count, reach in ((64, 14, 1.8), (32, 40, None)):
        few = {"size": size, "steps": count, "log_every": 2 if size > 32 else 5, "checkpoint_every": count}
        steps.prepare(_settings(folder, f"study-{size}", size=size))
        rates: dict[str, list[float]] = {"one": [], "two": [], "shared": []}
        for turn in range(2):
            rates["one"].append(_rate(_settings(folder, f"one-{size}-{turn}", workers=1, **few)))
            rates["two"].append(_rate(_settings(folder, f"two-{size}-{turn}", workers=2, **few | {"batch_size": 32})))
            rates["shared"].append(_rate(_settings(folder, f"shared-{size}-{turn}", workers=2, **few)))
        one, two, shared = (statistics.median(rates[key]) for key in ("one", "two", "shared"))
        where = f"8×{size}×{size}"
        say(f"{where}: samples/s of one worker", one, "1/s", "higher")
        say(f"{where}: two workers over one, 16 samples each", two / one, "1", "higher", reach)
        say(f"{where}: two workers over one, 16 samples together", shared / one, "1", "higher")


def _bare_rate(settings: Settings) -> float:
    """Samples per second of the same steps in a plain loop, in a process of its own like a worker."""
    command = [sys.executable, "-m", "benchmarks.training", "--bare", str(settings.data.shards)]
    output = subprocess.run(command, check=True, env=os.environ | WORKER_ENVIRONMENT, stdout=subprocess.PIPE)  # noqa: S603
    return float(output.stdout)


def bare(shards: str) -> float:
    """The median over the same number of records and steps as in `_rate`; the subjects are all in memory."""
    import torch
    from torch.nn.utils import convert_conv3d_weight_memory_format

    from sadm_ray.data.load.collate import collate
    from sadm_ray.data.load.rng import SampleRng
    from sadm_ray.data.shards.prepared_study import read_study, read_subject
    from sadm_ray.model.registry import build_model
    from sadm_ray.train.gradient_guard import GradientGuard
    from sadm_ray.train.train_state import TrainState
    from sadm_ray.train.train_step import Batch, train_step
    from sadm_ray.train.trainer import model_config

    torch.set_num_threads(1)
    settings, study = _settings(Path("nowhere"), "bare"), read_study(shards)
    names = study.names("train")[:64]
    sequences = collate([read_subject(study, name) for name in names])
    torch.manual_seed(0)
    model = build_model(model_config(settings, study))
    convert_conv3d_weight_memory_format(model, torch.channels_last_3d)
    train_state, guard, size = (
        TrainState(model, settings.train),
        GradientGuard(settings.train),
        settings.train.batch_size,
    )
    frames, present, times = (torch.from_numpy(a) for a in (sequences.frames, sequences.present, sequences.times))
    rates = []
    for record in range(STEPS // 5):
        start = time.monotonic()
        for step in range(record * 5, record * 5 + 5):
            chosen = torch.randperm(len(names))[:size]
            batch = Batch(frames[chosen], present[chosen], times[chosen])
            train_step(train_state, guard, batch, SampleRng(0, step, range(size), size), settings.train, step)
        rates.append(5 * size / (time.monotonic() - start))
    return statistics.median(rates[2:])


def overhead(folder: Path) -> None:
    """The overhead of Ray, reading and tracking over the bare steps, alternating."""
    ratios = []
    for turn in range(2):
        settings = _settings(folder, f"ray-{turn}", workers=1)
        ratios.append(_bare_rate(settings) / _rate(settings) - 1)
    say("overhead of Ray and tracking over the bare step", statistics.median(ratios), "1", "lower", 0.03)


def checkpoint(folder: Path) -> None:
    """The fraction of time that training waits for a checkpoint every 20 steps, and the slow-down by writing it."""
    from sadm_ray.tracking import step_history

    stalls, costs = [], []
    for turn in range(2):
        often = _settings(folder, f"often-{turn}", workers=1, checkpoint_every=20, log_every=20, steps=100)
        rate = _rate(often)
        values = [value for step, value in step_history(often, "train", "checkpoint_stall_fraction") if step > 20]
        stalls.append(statistics.mean(values))
        seldom = _settings(folder, f"seldom-{turn}", workers=1, checkpoint_every=100, log_every=20, steps=100)
        costs.append(_rate(seldom) / rate - 1)
    say(
        "time that training stands still for checkpoints, one every 20 steps",
        statistics.median(stalls),
        "1",
        "lower",
        0.02,
    )
    say("slower with a checkpoint every 20 steps than with none", statistics.median(costs), "1", "lower")


def paper() -> None:
    """Weak scaling calculated: gradient exchange per step against link bandwidth, at the size of configs/acdc.yaml.

    What a sample computes is the recorded figure of `benchmarks.core`.
    """
    import torch

    from sadm_ray.model.model_config import ModelConfig
    from sadm_ray.model.registry import build_model

    settings = load_settings(CONFIGS / "acdc.yaml")
    model = settings.model.model_copy(update={"difference_scale": 0.1})
    with torch.device("meta"):
        parameters = sum(
            p.numel() for p in build_model(ModelConfig(shape=settings.data.shape, model=model)).parameters()
        )
    sample_tflop = recorded_value("core", "default: training step, floating-point work") / 1e3
    gpu_tflops, samples = 100.0, 8
    compute = samples * sample_tflop / gpu_tflops
    gradient_gb = 4 * parameters / 1e9
    say("gradient", gradient_gb * 1e3, "MB", "lower")
    say(f"compute of {samples} samples a GPU at {gpu_tflops:g} TFLOP/s achieved", compute * 1e3, "ms", "lower")
    for gpus in (8, 64, 512):
        exchanged = 2 * (gpus - 1) / gpus * gradient_gb
        for link, gbs in (("NVLink 450 GB/s", 450.0), ("400 Gb/s a GPU", 50.0), ("100 Gb/s a node of 8", 12.5)):
            if (gpus > 8) == link.startswith("NVLink"):
                continue
            seconds = exchanged / gbs + 2 * (gpus - 1) * 5e-6
            efficiency = compute / max(compute, seconds + 0.1 * compute)
            say(f"{gpus} GPUs over {link}: exchange", seconds * 1e3, "ms", "lower")
            say(f"{gpus} GPUs over {link}: efficiency, exchange beside the backward pass", efficiency, "1", "higher")


MEASURED = {"scaling": scaling, "overhead": overhead, "checkpoint": checkpoint}
CALCULATED = {"paper": paper}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*MEASURED, *CALCULATED])
    parser.add_argument("--bare", metavar="SHARDS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(bare(options.bare))
        return
    for name, calculate in CALCULATED.items():
        if options.part in (None, name):
            calculate()
    measured = [part for name, part in MEASURED.items() if options.part in (None, name)]
    if measured:
        _measure(measured)


def _measure(parts: Sequence[Callable[[Path], None]]) -> None:
    """One after another, in a Ray of their own with a study of phantoms."""
    from sadm_ray import steps
    from sadm_ray.cluster import ray_session

    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(Path(folder), "study")
        with ray_session(settings):
            steps.prepare(settings)
            for part in parts:
                part(Path(folder))


if __name__ == "__main__":
    main()
