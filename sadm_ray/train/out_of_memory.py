"""Finds before the first step a micro-batch that fits the memory, and reports one that does not."""

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

_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def out_of_memory_error(settings: TrainSettings, samples: int, batch: Batch) -> ConfigError:
    """The error for a micro-batch of so many samples."""
    frames, size = batch.frames.shape[1], "×".join(map(str, batch.frames.shape[-3:]))
    remedies = [f"set train.micro_batch below {samples}"] if samples > 1 else []
    remedies += [] if settings.recompute_activations else ["train.recompute_activations=true"]
    remedies += ["smaller data.shape or model widths"]
    return ConfigError(
        f"train.micro_batch: {samples} samples of {frames} frames of {size} at a time do not fit the memory of a "
        f"{batch.frames.device.type} worker; {', or '.join(remedies)}"
    )


def find_micro_batch(
    train_state: TrainState,
    batch: Batch,
    rng: SampleRng,
    settings: TrainSettings,
    warn: Callable[[str], None] = log.warning,
) -> tuple[int, float]:
    """Try a forward and backward pass, without a step; halve the micro-batch until it fits, if settings allow it.

    Returns:
        the micro-batch that fits all workers, in samples, and the floating-point operations of one sample.

    Raises:
        ConfigError: `settings.micro_batch` samples (none: all of the worker's) do not fit and may not be halved, or a
            single sample does not fit.
    """
    samples = wanted = min(settings.micro_batch or len(batch.frames), len(batch.frames))
    while True:
        try:
            flops = _try_batch(train_state, batch.part(slice(samples)), rng.subset(slice(samples)), settings)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if settings.on_out_of_memory == "stop" or samples == 1:
                raise out_of_memory_error(settings, samples, batch) from None
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


def _try_batch(train_state: TrainState, batch: Batch, rng: SampleRng, settings: TrainSettings) -> float:
    size = train_state.bare.noise_size(batch.frames.shape[-3:])
    with FlopCounterMode(display=False) as counter, train_state.accumulating(last=train_state.sharded):
        losses, _ = sample_losses(train_state.model, size, batch, rng, settings)
        losses.sum().backward()
    train_state.optimizer.zero_grad()
    return float(counter.get_total_flops()) / len(batch.frames)
