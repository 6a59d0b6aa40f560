"""Where the randomness of training comes from: the seed of the run, the step and a sample's place in the whole batch.

Nothing is left of what workers drew before, nor of how many there are. So a run that was stopped, or goes on with more
or fewer workers, or takes its batch in smaller parts, draws the same numbers; and no generator has to be saved.
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

    Each draw has a name and begins anew: asking for it again gives the same numbers, and what is drawn under one name,
    or for one sample, does not depend on any other.

    Args:
        seed: of the run.
        step: of the training.
        places: the places of these samples in the batch.
        batch: how many samples the batch of all workers has.
        device: where normal numbers are drawn, and where all are put.
    """

    def __init__(
        self, seed: int, step: int, places: Sequence[int], batch: int, device: torch.device | str = "cpu"
    ) -> None:
        self.places, self.batch = tuple(places), batch
        self._seed, self._step, self._device = seed, step, device

    def part(self, chosen: slice) -> SampleRng:
        """Those of some of the samples."""
        return SampleRng(self._seed, self._step, self.places[chosen], self.batch, self._device)

    def uniform(self, name: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Numbers in [0, 1), of `shape` a sample. Those of a longer first axis begin with those of a shorter one."""
        rows = [self._numbers(name, place).random(shape, np.float32) for place in self.places]
        return torch.from_numpy(np.stack(rows)).to(self._device)

    def spread(self, name: str) -> Float[Tensor, " b"]:
        """One number in each of as many equal parts of [0, 1) as the whole batch has samples.

        Less variance than independent draws (VDM, appendix I); which part falls to which place changes with the step.
        """
        numbers = self._numbers(name)
        offset, order = numbers.random(), numbers.permutation(self.batch)
        spread = (order[list(self.places)] + offset) / self.batch
        return torch.from_numpy(spread.astype(np.float32)).to(self._device)

    def normal(self, name: str, shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """Standard normal numbers, of `shape` a sample, drawn on the device (devices of another kind draw others)."""
        generator = torch.Generator(self._device)
        out = torch.empty((len(self.places), *shape), device=self._device)
        for row, place in zip(out, self.places, strict=True):
            generator.manual_seed(int(self._numbers(name, place).integers(2**63)))
            row.normal_(generator=generator)
        return out

    def _numbers(self, name: str, *place: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._step, zlib.crc32(name.encode()), *place])
