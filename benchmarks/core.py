"""The model at the paper's size: 12 frames of 128 × 128 × 32, batch 1, one thread, float32.

    python -m benchmarks.core            all figures
    python -m benchmarks.core --paper    also the faithful configuration (minutes)

Each part runs in a process of its own, so that its peak memory is its own. Time is CPU time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import cpu_seconds, peak_gb, say, side_by_side
from benchmarks.networks import (
    CONFIGS,
    DEFAULT,
    FAST,
    all_but_last,
    forward_backward,
    full_batch,
    monai_forward_backward,
    our_model,
)
from sadm_ray.cluster import WORKER_ENVIRONMENT
from sadm_ray.config import SamplingSettings, Settings
from sadm_ray.config.settings_file import load_settings
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.train.gradient_guard import GradientGuard
from sadm_ray.train.muon import Muon
from sadm_ray.train.train_state import TrainState
from sadm_ray.train.train_step import train_step


def matrix_rate() -> float:
    """GFLOP/s of a large matrix product on one core, the upper bound of a training step."""
    a, b = torch.rand(2, 2048, 2048)
    return 2 * 2048**3 / cpu_seconds(lambda: a @ b, repeats=5) / 1e9


def training(settings: Settings, name: str, reach: bool) -> None:
    step = forward_backward(settings)
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = cpu_seconds(step)
    gflops = counter.get_total_flops() / 1e9
    rate = matrix_rate()
    facts = our_model(settings).describe()
    say(f"{name}: denoiser parameters", facts["denoiser_parameters"] / 1e6, "M", "higher", 15 if reach else None)
    say(f"{name}: conditioner parameters", facts["conditioner_parameters"] / 1e6, "M", "higher")
    say(f"{name}: training sample, forward and backward", seconds, "CPU s", "lower", 2.5 if reach else None)
    say(f"{name}: training sample, peak memory", peak_gb(), "GB", "lower", 1.2 if reach else None)
    say(f"{name}: training step, floating-point work", gflops, "GFLOP", "lower")
    say(f"{name}: training step, share of the matrix-product rate", gflops / seconds / rate, "1", "higher")
    say("matrix-product rate of a core", rate, "GFLOP/s", "higher")


def whole_step(settings: Settings, name: str) -> None:
    """With the optimizer, the clipping and the EMA."""
    train_state, guard = TrainState(our_model(settings), settings.train), GradientGuard(settings.train)
    batch, rng = full_batch(settings), SampleRng(0, 0, range(1), 1)
    for precision in ("float32", "bfloat16"):
        how = settings.train.model_copy(update={"precision": precision})
        seconds = cpu_seconds(partial(train_step, train_state, guard, batch, rng, how, 0))
        say(f"{name}: whole training step, batch 1, {precision}", seconds, "CPU s", "lower")


def muon_update(settings: Settings, name: str) -> None:
    """The update of our Muon, in float32, and of PyTorch's, in bfloat16."""
    matrices = [
        nn.Parameter(p.detach().flatten(1)) for p in our_model(settings).parameters() if p.ndim > 1 and len(p) > 1
    ]
    for p in matrices:
        p.grad = torch.randn_like(p)
    ours = cpu_seconds(Muon(matrices, weight_decay=0.0).step)
    theirs = cpu_seconds(torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step)
    say(f"{name}: update by Muon", ours, "CPU s", "lower")
    say(f"{name}: times faster than PyTorch's Muon", theirs / ours, "1", "higher", 0.95)


def sampling(settings: Settings, name: str, reach: bool) -> None:
    model, batch = our_model(settings).eval(), full_batch(settings)
    observed = all_but_last(batch)

    def frame(how: SamplingSettings) -> Callable[[], object]:
        return lambda: model.generate(batch.frames, observed, batch.times, batch.times[:, -1:], [0], how)

    settings_of = {"at the default sampler with guidance": (DEFAULT, 12), "at a fast setting": (FAST, 3)}
    for label, (how, limit) in settings_of.items():
        say(f"{name}: a frame {label}", cpu_seconds(frame(how), 1), "CPU s", "lower", limit if reach else None)
    one, nine = side_by_side(*(frame(DEFAULT.model_copy(update={"num_steps": steps})) for steps in (1, 9)), repeats=2)
    say(f"{name}: one guided network call", (nine - one) / 8, "CPU s", "lower")


def paper_frame(settings: Settings) -> None:
    """One guided step of the faithful model, and the estimate for all its steps."""
    model, batch = our_model(settings).eval(), full_batch(settings)
    how = settings.sampling.model_copy(update={"num_steps": 1})
    seconds = cpu_seconds(
        lambda: model.generate(batch.frames, batch.present, batch.times, batch.times[:, -1:] + 0.1, [0], how), 1
    )
    say("paper: one guided network call with the condition", seconds, "CPU s", "lower")
    say(
        f"paper: a frame of {settings.sampling.num_steps} steps, estimated",
        seconds * settings.sampling.num_steps,
        "CPU s",
        "lower",
    )


def against_monai(settings: Settings) -> None:
    """Forward and backward of MONAI's diffusion U-Net and of ours on the same volume, one after the other."""
    seconds, monai_seconds = side_by_side(forward_backward(settings), monai_forward_backward(settings), repeats=2)
    say("MONAI DiffusionModelUNet: forward and backward", monai_seconds, "CPU s", "lower")
    say("times faster a training step than MONAI's network", monai_seconds / seconds, "1", "higher", 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", action="store_true", help="also the faithful configuration")
    parser.add_argument("--part", choices=PARTS, help="one part, in this process")
    options = parser.parse_args()
    if options.part:
        torch.set_num_threads(1)
        PARTS[options.part]()
        return
    for part in PARTS:
        if options.paper or not part.startswith("paper"):
            command = [sys.executable, "-m", "benchmarks.core", "--part", part]
            subprocess.run(command, check=True, env=os.environ | WORKER_ENVIRONMENT)  # noqa: S603


def _acdc() -> Settings:
    return load_settings(CONFIGS / "acdc.yaml")


def _paper() -> Settings:
    return load_settings(CONFIGS / "acdc_paper.yaml")


PARTS: dict[str, Callable[[], None]] = {
    "training": lambda: training(_acdc(), "default", reach=True),
    "whole-step": lambda: whole_step(_acdc(), "default"),
    "muon": lambda: muon_update(load_settings(CONFIGS / "acdc_small.yaml"), "acdc_small"),
    "sampling": lambda: sampling(_acdc(), "default", reach=True),
    "monai": lambda: against_monai(_acdc()),
    "paper-training": lambda: training(_paper(), "paper", reach=False),
    "paper-frame": lambda: paper_frame(_paper()),
}

if __name__ == "__main__":
    main()
