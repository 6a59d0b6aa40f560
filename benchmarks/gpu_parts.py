"""The parts of `benchmarks.gpu`: each prints its figures, and returns whether the device does what it should."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.device_timing import DeviceRun
from benchmarks.figures import say
from benchmarks.networks import (
    DEFAULT,
    FAST,
    Drawn,
    all_but_last,
    forward_backward,
    losses,
    monai_forward_backward,
    our_model,
)
from sadm_ray.config import Precision, SamplingSettings
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.registration import register
from sadm_ray.train.learning_rate_schedule import learning_rate
from sadm_ray.train.train_state import TrainState
from sadm_ray.train.train_step import Batch

_PRECISIONS: tuple[Precision, Precision] = ("float32", "bfloat16")


def training(run: DeviceRun, *, compiled: bool) -> bool:
    """Whole training steps, with the clipping, the update and the averages; every frame but the target is observed."""
    rate = run.matrix_rate()
    with FlopCounterMode(display=False) as counter:
        forward_backward(run.settings, 1, run.device, "bfloat16")()
    flops = counter.get_total_flops()
    if not compiled:
        say("matrix-product rate in bfloat16", rate / 1e12, "TFLOP/s", "higher")
        say("floating-point work of a sample, forward and backward", flops / 1e9, "GFLOP", "lower")
    for size in reversed(run.batches) if compiled else run.batches:  # the time may not suffice to compile all
        name = f"training step, {'compiled' if compiled else 'eager'}, batch {size}"
        ms = run.row(name, partial(_time_of_step, run, size, f"{name}: first step, which compiles" * compiled))
        if ms is not None:
            say(f"{name}: samples a second", size / ms * 1e3, "1/s", "higher")
            say(f"{name}: peak memory", run.peak_gb(), "GB", "lower")
            say(f"{name}: share of the matrix-product rate", size * flops / (ms / 1e3) / rate, "1", "higher")
    return True


def _time_of_step(run: DeviceRun, size: int, compiling: str) -> float:
    """Milliseconds of a step; with `compiling`, compiled, and under this name the seconds of the first one."""
    model, train = our_model(run.settings, run.device), run.settings.train
    train_state, drawn = TrainState(model, train), Drawn.of(model, run.settings, size).to(run.device)

    def step() -> None:
        losses(model, drawn, "bfloat16").mean().backward()
        train_state.clip(train.clip_norm)
        train_state.update(learning_rate(0, train))
        train_state.optimizer.zero_grad()

    if compiling:
        torch.compiler.reset()  # each size is a training of its own, whose shapes never change
        for network in model.networks():  # as a training worker does
            network.compile()
        say(compiling, run.once(step) / 1e3, "s", "lower")
    return run.milliseconds(step)


def beside_monai(run: DeviceRun) -> bool:
    """Forward and backward, ours and MONAI's, on the same volumes."""
    ours, theirs = "forward and backward", "MONAI DiffusionModelUNet, forward and backward"
    if importlib.util.find_spec("monai") is None:
        say(theirs, None, "ms", "lower", note="left out: MONAI is not installed")
        return True
    for size in run.batches:
        times = []
        for name, make in ((ours, forward_backward), (theirs, monai_forward_backward)):
            times.append(run.row(f"{name}, batch {size}", partial(_time_of, run, make, size)))
            if times[-1] is not None:
                say(f"{name}, batch {size}: peak memory", run.peak_gb(), "GB", "lower")
        if times[0] is not None and times[1] is not None:
            ratio = times[1] / times[0]
            say(f"times faster forward and backward than MONAI's network, batch {size}", ratio, "1", "higher")
    return True


def _time_of(run: DeviceRun, make: Callable[..., Callable[[], object]], size: int) -> float:
    return run.milliseconds(make(run.settings, size, run.device, "bfloat16"))


def registration(run: DeviceRun) -> bool:
    """Pairs of frames, alone and several at a time."""
    for size in sorted({1, max(run.batches)}):
        first, second = _smooth_frames(run, 2 * size).to(run.device).split(size)
        name = f"registration of {size} pair{'s' * (size > 1)} of frames"
        ms = run.row(name, partial(run.milliseconds, partial(register, first, second)))
        if ms is not None:
            say(f"{name}: a pair", ms / size, "ms", "lower")
    return True


def generation(run: DeviceRun) -> bool:
    """A frame at the default sampler and at the fast setting, from all other frames."""
    model = our_model(run.settings, run.device).eval()
    batch = Drawn.of(model, run.settings, 1).to(run.device).batch
    for label, sampling in (("at the default sampler with guidance", DEFAULT), ("at a fast setting", FAST)):
        for precision in _PRECISIONS:
            how = sampling.model_copy(update={"precision": precision})
            name = f"a frame {label}, {precision}"
            if run.row(name, partial(run.milliseconds, partial(_frame, model, batch, how))) is not None:
                say(f"{name}: peak memory", run.peak_gb(), "GB", "lower")
    return True


def _frame(model: SequenceModel, batch: Batch, how: SamplingSettings) -> Tensor:
    return model.generate(batch.frames, all_but_last(batch), batch.times, batch.times[:, -1:], [0], how)


def equality(run: DeviceRun) -> bool:
    """The same weights, volumes and noise on the CPU and on the device: whether they agree to the goals.

    Another rounding alone (weights and frames changed by a millionth) changes a loss by 2e-6, a displacement by 2e-5
    voxels and an intensity by 2e-5, as measured on a CPU at 16 × 64 × 64.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    here = our_model(run.settings).eval()
    for parameter in here.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)  # else the networks say nothing yet
    drawn = Drawn.of(here, run.settings, 1)
    smooth = _smooth_frames(run, drawn.batch.frames.shape[1])
    drawn = replace(drawn, batch=replace(drawn.batch, frames=smooth[None]))
    there, moved = deepcopy(here).to(run.device), drawn.to(run.device)
    with torch.no_grad():
        loss = losses(here, drawn).mean().item()
        wide, narrow = (losses(there, moved, each).mean().item() / loss - 1.0 for each in _PRECISIONS)
    fields = [register(on.batch.frames[:, 0], on.batch.frames[:, -1]).cpu() for on in (drawn, moved)]
    frames = [_frame(model, on.batch, DEFAULT).cpu() for model, on in ((here, drawn), (there, moved))]
    compared = (
        ("loss in float32: relative difference", wide, "1", 1e-4),
        ("loss in bfloat16: relative difference", narrow, "1", 0.02),
        ("registration: largest difference of a displacement", fields[1] - fields[0], "voxels", 0.01),
        ("a generated frame: largest difference of an intensity", frames[1] - frames[0], "1", 1e-3),
    )
    return all([agrees(*each) for each in compared])  # noqa: C419  each of them is printed


def _smooth_frames(run: DeviceRun, count: int) -> Tensor:
    """Frames with structures of some voxels: registration of noise has no answer."""
    size = run.settings.data.shape
    coarse = torch.rand(count, 1, *(-(-length // 4) for length in size), generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=tuple(size), mode="trilinear")


def agrees(what: str, difference: Tensor | float, unit: str, tolerance: float) -> bool:
    """Print the largest difference between the device and the CPU; whether it is within the tolerance."""
    largest = float(torch.as_tensor(difference).abs().max())
    say(f"device against CPU, {what}", largest, unit, "lower", tolerance)
    if largest <= tolerance:  # which NaN is not
        return True
    print(f"benchmarks.gpu: {what}: {largest:.3g} {unit}, more than {tolerance:g}", file=sys.stderr, flush=True)
    return False
