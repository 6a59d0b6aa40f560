"""Our networks without the diffusion: what the conditioning alone is worth (the paper's ablation)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sadm_ray.config import SamplingSettings
from sadm_ray.diffusion.samplers import SeededNoise
from sadm_ray.model.context import Given
from sadm_ray.model.sadm import Sadm


class Regression(Sadm):
    """x̂ by squared error, in one call; the network is as large as ours and looks at zeros where ours has noise.

    Every sample of it is the same: the mean of what may come.
    """

    is_guided = is_random = False

    def loss(self, given: Given, volume: Tensor, t: Tensor, eps: Tensor) -> Float[Tensor, " b"]:
        x = self.target.encode(volume, given.reference)
        return (self._answer(given) - x).square().flatten(1).mean(dim=1)

    def draw(self, given: Given, noise: SeededNoise, sampling: SamplingSettings) -> Float[Tensor, "b c D H W"]:
        return self.target.decode(self._answer(given), given.reference)

    def network_calls(self, sampling: SamplingSettings) -> int:
        return 1

    def _answer(self, given: Given) -> Float[Tensor, "b c D H W"]:
        noisiest = self.schedule.steps(1)[0]
        return self._denoise(torch.zeros_like(given.reference), noisiest, given.condition)
