"""Which samples go through the networks together, and what was generated of them: large volumes go in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sadm_ray.diffusion.samplers import SeededNoise
from sadm_ray.model.conditioner import Features
from sadm_ray.model.encoded_sequence import EncodedSequences
from sadm_ray.model.memory_bounds import samples_at_once


@dataclass
class SamplePart:
    """Samples that go through the networks together, and the frames that were generated of them so far.

    Attributes:
        rows: their places among all samples.
        sequences: the index of each one's sequence.
        noise: theirs alone.
        generated: of each frame that others may follow, its features, its time and its covariates.
    """

    rows: slice
    sequences: list[int]
    noise: SeededNoise
    generated: list[tuple[Features, Float[Tensor, " b"], Float[Tensor, "b v"] | None]] = field(default_factory=list)

    def known(self, scans: EncodedSequences) -> EncodedSequences:
        """What is known of each sample: the observed scans of its sequence, and its own generated frames."""
        known = scans.of(self.sequences)
        for frame in self.generated:
            known = known.appended(*frame)
        return known


def sample_parts(
    seeds: Sequence[int], sequences: int, volume: Sequence[int], device: torch.device, temperature: float
) -> list[SamplePart]:
    """The samples of all sequences, equally many of each, in parts of `samples_at_once`.

    Args:
        seeds: of each sample, those of the first sequence first.
        volume: c d h w, as the networks see it.
        temperature: of the noise.
    """
    samples, most = len(seeds) // sequences, samples_at_once(volume)
    places = [range(len(seeds))[start : start + most] for start in range(0, len(seeds), most)]
    return [
        SamplePart(
            slice(each.start, each.stop),
            [place // samples for place in each],
            SeededNoise(seeds[each.start : each.stop], device, temperature),
        )
        for each in places
    ]
