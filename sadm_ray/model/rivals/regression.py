"""Our networks without the diffusion: what the conditioning alone is worth (the paper's ablation)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from sadm_ray.config import SamplingSettings
from sadm_ray.diffusion.samplers import SeededNoise
from sadm_ray.model.config import ModelConfig
from sadm_ray.model.context import Given
from sadm_ray.model.guess import TOGETHER, Guesser, guess_of, guesser_of
from sadm_ray.model.sequence_model import SequenceModel


class Regression(SequenceModel):
    """The mean of our guess is the answer, in one call; it is trained as ours is.

    Every sample of it is the same: the mean of what may come.
    """

    is_random = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.conditioner = self._attending(self.sides)
        self.guesser: Guesser = guesser_of(config, self.conditioner.layout)

    def networks(self) -> Sequence[nn.Module]:
        return [self.guesser.unet]

    def loss(self, given: Given, volume: Tensor, t: Tensor, eps: Tensor) -> Float[Tensor, " b"]:
        return guess_of(self.guesser, given, self.target).loss(self.target.encode(volume, given.reference))

    def draw(self, given: Given, noise: SeededNoise, sampling: SamplingSettings) -> Float[Tensor, "b c D H W"]:
        guess = guess_of(self.guesser, given, self.target, together=TOGETHER)
        return self.target.decode(guess.mean, given.reference)

    def network_calls(self, sampling: SamplingSettings) -> int:
        return 1
