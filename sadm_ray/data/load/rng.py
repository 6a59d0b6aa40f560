"""Random numbers of training: functions of the run's seed, the step, a name and a sample's index in the whole batch.

They depend on no earlier draw and not on the number of workers. So a run that was stopped, goes on with more or fewer
workers, or takes its batch in smaller parts draws the same numbers; and no generator state has to be saved.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class SampleRng:
    """The random numbers of some samples of one step's batch.

    Each draw has a name and a generator of its own: repeated, it gives the same numbers, and it does not depend on
    draws of other names or for other samples.

    Args:
        seed: of the run.
        step: of the training.
        indices: of these samples in the batch of all workers.
        batch_size: of the batch of all workers.
        device: where normal numbers are drawn, and where all numbers are put.
    """

    def __init__(
        self, seed: int, step: int, indices: Sequence[int], batch_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self.indices, self.batch_size = tuple(indices), batch_size
        self._seed, self._step, self._device = seed, step, device

    def subset(self, chosen: slice) -> SampleRng:
        """The random numbers of some of the samples."""
        return SampleRng(self._seed, self._step, self.indices[chosen], self.batch_size, self._device)

    def uniform(self, name: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Uniform in [0, 1), of `shape` a sample; a longer first axis begins with the numbers of a shorter one."""
        rows = [self._numbers(name, index).random(shape, np.float32) for index in self.indices]
        return torch.from_numpy(np.stack(rows)).to(self._device)

    def stratified(self, name: str) -> Float[Tensor, " b"]:
        """Stratified uniform numbers: [0, 1) is cut into as many equal strata as the whole batch has samples.

        Each sample draws from a stratum of its own, which changes with the step. Less variance than independent draws
        (VDM, appendix I).
        """
        numbers = self._numbers(name)
        offset, order = numbers.random(), numbers.permutation(self.batch_size)
        stratified = (order[list(self.indices)] + offset) / self.batch_size
        return torch.from_numpy(stratified.astype(np.float32)).to(self._device)

    def normal(self, name: str, shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """Standard normal numbers, of `shape` a sample, drawn on the device (devices of another kind draw others)."""
        generator = torch.Generator(self._device)
        out = torch.empty((len(self.indices), *shape), device=self._device)
        for row, index in zip(out, self.indices, strict=True):
            generator.manual_seed(int(self._numbers(name, index).integers(2**63)))
            row.normal_(generator=generator)
        return out

    def _numbers(self, name: str, *index: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._step, zlib.crc32(name.encode()), *index])
