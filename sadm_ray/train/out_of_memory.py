"""Whether a batch fits the memory, tried before the first step, and what to do when it does not."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from sadm_ray.config import TrainSettings
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.errors import ConfigError
from sadm_ray.train.train_state import TrainState
from sadm_ray.train.train_step import Batch, sample_losses

log = logging.getLogger(__name__)

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def too_large(settings: TrainSettings, samples: int, batch: Batch) -> ConfigError:
    """What is said when so many samples at a time are too many."""
    frames, size = batch.frames.shape[1], "×".join(map(str, batch.frames.shape[-3:]))
    mends = [f"set train.micro_batch below {samples}"] if samples > 1 else []
    mends += [] if settings.recompute_activations else ["train.recompute_activations=true"]
    mends += ["smaller data.shape or model widths"]
    return ConfigError(
        f"train.micro_batch: {samples} samples of {frames} frames of {size} at a time do not fit the memory of a "
        f"{batch.frames.device.type} worker; {', or '.join(mends)}"
    )


def fit(
    train_state: TrainState,
    batch: Batch,
    rng: SampleRng,
    settings: TrainSettings,
    warn: Callable[[str], None] = log.warning,
) -> tuple[int, float]:
    """Try a pass forward and backward; nothing is learned from it.

    Returns:
        how many samples all workers can take at a time, and the floating-point operations of one sample.

    Raises:
        ConfigError: `settings.micro_batch` samples (none: all of the worker's) are too many, and they are not to be
            halved, or one alone is too many.
    """
    samples = wanted = min(settings.micro_batch or len(batch.frames), len(batch.frames))
    while True:
        try:
            flops = _attempt(train_state, batch.part(slice(samples)), rng.part(slice(samples)), settings)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if settings.on_out_of_memory == "stop" or samples == 1:
                raise too_large(settings, samples, batch) from None
        train_state.optimizer.zero_grad()
        samples = -(-samples // 2)
        torch.cuda.empty_cache()
    if train_state.world > 1:
        agreed = torch.tensor(samples, device=batch.frames.device)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MIN)
        samples = int(agreed)
    if samples < wanted:
        warn(f"{wanted} samples at a time do not fit the memory; workers take {samples} at a time (train.micro_batch)")
    return samples, flops


def _attempt(train_state: TrainState, batch: Batch, rng: SampleRng, settings: TrainSettings) -> float:
    size = train_state.bare.noise_size(batch.frames.shape[-3:])
    with FlopCounterMode(display=False) as counter, train_state.accumulating(last=train_state.sharded):
        losses, _ = sample_losses(train_state.model, size, batch, rng, settings)
        losses.sum().backward()
    train_state.optimizer.zero_grad()
    return float(counter.get_total_flops()) / len(batch.frames)
