"""Our networks without the diffusion: what the conditioning alone is worth (the paper's ablation)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from sadm_ray.config import SamplingSettings
from sadm_ray.diffusion.samplers import SeededNoise
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.encoded_sequence import TargetContext
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.prior import PriorNetwork, prior_network_of, prior_of


class Regression(SequenceModel):
    """The prior's mean is the prediction, in one call; it is trained as the prior of ours is.

    All its samples are the same.
    """

    is_random = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.conditioner = self._attending(self.references)
        self.prior_network: PriorNetwork = prior_network_of(config, self.conditioner.layout)

    def networks(self) -> Sequence[nn.Module]:
        return [self.prior_network.unet]

    def loss(
        self, context: TargetContext, volume: Tensor, t: Tensor, eps: Tensor, counted: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        x = self.target.encode(volume, context.reference)
        return prior_of(self.prior_network, context, self.target).loss(x, counted)

    def draw(
        self, context: TargetContext, noise: SeededNoise, sampling: SamplingSettings
    ) -> Float[Tensor, "b c D H W"]:
        prior = prior_of(self.prior_network, context, self.target, recalibration=self.recalibration)
        return self.target.decode(prior.mean, context.reference)

    def network_calls(self, sampling: SamplingSettings) -> int:
        return 1
