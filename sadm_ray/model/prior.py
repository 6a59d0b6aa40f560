"""The prior: a Gaussian at every voxel of x, predicted from the condition before the denoiser sees any noise.

It depends on the condition alone: a sampler computes it once a target, and every training sample trains it, whatever
its noise level. The diffusion then corrects it (`sadm_ray.diffusion.preconditioning`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sadm_ray.config import NetworkSettings
from sadm_ray.diffusion.loss import channel_mean
from sadm_ray.diffusion.preconditioning import LOG_VARIANCE_RANGE
from sadm_ray.diffusion.residual import Residual
from sadm_ray.diffusion.samplers import SeededNoise
from sadm_ray.model.condition_channels import ConditionChannels
from sadm_ray.model.displacement_field import motion_channels, motion_residual
from sadm_ray.model.encoded_sequence import TargetContext
from sadm_ray.model.finite_differences import gradient_magnitude
from sadm_ray.model.layers import PatchSize, depth_to_space, space_to_depth
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.prior_samples import RANGES, Spread, SpreadNetwork, added_noise
from sadm_ray.model.recalibration import KINDS, NOT_CALIBRATED, Recalibration
from sadm_ray.model.resizing import resized
from sadm_ray.model.unet import SmoothOutputs, UNet

VARIANCE_RANGE = (1e-3, 1.0)
"""Bounds of the mean variance that weighs a target's loss."""
LIKELIHOOD_WEIGHT = 0.2
ERROR_FLOOR = 1e-3
"""A mean squared error of x below this counts as zero."""
LOG_VARIANCE = 24.0
"""One unit of the network's output in log s²: variances differ by orders of magnitude."""
POSITION_ERROR, INTENSITY_ERROR = 1.5, 0.02
"""The variance before training: an error of position, in voxels a unit of the time scale, and one of intensity."""


class Prior(NamedTuple):
    """Mean and log variance of every voxel of x; with frame blending also the two predictions that it averages.

    `members`: the prior network's and frame blending's. The second is 0, the reference, and untrained where the target
    is not between two frames. `spread`: how its samples differ from the mean; none: by noise of every voxel alone.
    """

    mean: Float[Tensor, "b c d h w"]
    log_variance: Float[Tensor, "b c d h w"]
    members: tuple[Float[Tensor, "b c d h w"], Float[Tensor, "b c d h w"]] | None = None
    spread: Spread | None = None

    @staticmethod
    def width(layout: ConditionChannels) -> int:
        """How many channels `on_grid` makes."""
        return 2 * layout.channels * math.prod(layout.patch)

    def on_grid(self, patch: PatchSize) -> Float[Tensor, "b k e f g"]:
        """As channels on the grid of a stem; `from_grid` is the inverse."""
        return torch.cat([space_to_depth(self.mean, patch), 0.25 * space_to_depth(self.log_variance, patch)], dim=1)

    @classmethod
    def from_grid(cls, channels: Float[Tensor, "b k e f g"], patch: PatchSize) -> Prior:
        """From the channels that `on_grid` made."""
        mean, log_variance = (depth_to_space(each.float(), patch) for each in channels.chunk(2, dim=1))
        return cls(mean, 4.0 * log_variance)

    @property
    def deviation(self) -> Float[Tensor, "b c d h w"]:
        """The standard deviation of every voxel; not differentiated."""
        return torch.exp(0.5 * self.log_variance.detach())

    def as_noise(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        """By how many deviations x differs from the mean; neither is differentiated."""
        return ((x - self.mean) / self.deviation).detach()

    def noise_from(self, noise: SeededNoise) -> Callable[[Sequence[int]], Float[Tensor, "b c d h w"]]:
        """Noise that turns the mean into samples: in units of the deviation, as the spread has it, or of each voxel."""
        spread = self.spread
        if spread is None:
            return noise

        def drawn(size: Sequence[int]) -> Float[Tensor, "b c d h w"]:
            c, d, h, w = size
            white = len(RANGES) * c, d, h, w
            sample = spread.sample(noise.kept((spread.numbers,)), noise(white))
            if spread.added is not None:
                sample = sample + spread.added * added_noise(noise(white))
            return self.as_noise(sample)

        return drawn

    @property
    def variance(self) -> Float[Tensor, " b"]:
        """The variance of each target, averaged over its voxels; not differentiated."""
        return self.variance_of(None)

    def variance_of(self, counted: Bool[Tensor, "b c"] | None) -> Float[Tensor, " b"]:
        """The variance of each target, averaged over the voxels that count (`channel_mean`); not differentiated."""
        return channel_mean(self.log_variance.detach().exp(), counted).clamp(*VARIANCE_RANGE)

    def loss(self, x: Float[Tensor, "b c d h w"], counted: Bool[Tensor, "b c"] | None = None) -> Float[Tensor, " b"]:
        """The squared error of the mean over the root of the predicted variance, and the likelihood of the variance.

        The mean is not fitted by likelihood, which gives little weight to it where the variance is large (Seitzer et
        al., On the Pitfalls of Heteroscedastic Uncertainty Estimation, 2022). The two members are each trained by their
        own error, so that their errors differ; frame blending by the logarithm of its error, as the reference is, so
        that every subject has equal weight.

        Args:
            counted: as in `loss.channel_mean`.
        """
        own, blended = self.members or (self.mean, None)
        squared = (x - self.mean).square().detach()
        likelihood = 0.5 * (self.log_variance + squared * torch.exp(-self.log_variance))
        error, unlikely = channel_mean((x - own).square(), counted), channel_mean(likelihood, counted)
        loss = error / self.variance_of(counted).sqrt() + LIKELIHOOD_WEIGHT * unlikely
        if blended is None:
            return loss
        unchanged = channel_mean(x.detach().square(), counted) + ERROR_FLOOR
        return loss + 0.5 * torch.log((channel_mean((x - blended).square(), counted) + ERROR_FLOOR) / unchanged)


class PriorNetwork(nn.Module):
    """condition → `Prior`. Untrained it predicts the reference itself, with a variance at the reference's edges.

    The predicted change is proportional to the time from the nearest reference frame: there the reference is exact. Of
    several channels each counts from the scan that it is from.

    Args:
        layout: of the condition, which holds the frames of the reference.
        scale: of x, in units of intensity.
        motion: whether the mean is also predicted by displacement fields (`sadm_ray.model.displacement_field`).
        modes: motions in which samples differ from the mean (`sadm_ray.model.prior_samples`); 0: no such samples.
    """

    def __init__(
        self, settings: NetworkSettings, layout: ConditionChannels, scale: float, *, motion: bool, modes: int = 0
    ) -> None:
        super().__init__()
        self.layout, self.scale = layout, scale
        self.unet = UNet(settings, layout.patch, layout.width, 2 * layout.channels)
        self.motion = SmoothOutputs(settings.widths, motion_channels(layout.references)) if motion else None
        self.spread: SpreadNetwork | None = None
        if motion and modes:
            self.spread = SpreadNetwork(settings.widths, modes, layout.references, layout.channels, layout.patch)

    def forward(self, condition: Float[Tensor, "b k e f g"]) -> Prior:
        outputs, features = self.unet(condition)
        residual, log_variance = outputs.float().chunk(2, dim=1)
        time_from_target = self.layout.time_from_target_of(condition)
        reach = self.layout.channel_time_of(condition).abs().amin(dim=1)[..., None, None, None]
        mean, spread = reach * residual, None
        if self.motion is not None:
            known = self.layout.frames_of(condition), time_from_target, self.layout.weights_of(condition)
            displacement = self.layout.displacement_of(condition)
            motion = resized(self.motion(features).float(), residual.shape[-3:])
            mean = mean + motion_residual(*known, motion, displacement) / self.scale
            if self.spread is not None:
                spread = self.spread(features, *known, displacement, self.scale)
        expected = self.layout.reference_of(condition.detach()) + self.scale * mean.detach()
        position_error = POSITION_ERROR * reach * gradient_magnitude(expected)
        initial = torch.log(position_error.square() + INTENSITY_ERROR**2) - 2.0 * math.log(self.scale)
        return Prior(mean, (initial + LOG_VARIANCE * log_variance).clamp(*LOG_VARIANCE_RANGE), spread=spread)


def prior_of(
    prior_network: PriorNetwork,
    context: TargetContext,
    target: Residual,
    strength: float = 1.0,
    recalibration: Recalibration = NOT_CALIBRATED,
) -> Prior:
    """The prior of x: the prior network's, and between two frames its mean with that of frame blending.

    Args:
        strength: multiplies the prior network's mean (guidance); frame blending is left as it is.
        recalibration: corrects the mean and what samples differ by; none in training.
    """
    prior, references = prior_network(context.condition), context.references
    own, members = strength * prior.mean, None
    is_between, is_pair = (each[:, None, None, None, None] for each in (references.is_between, references.is_pair))
    mean = own
    if references.blended is not None:
        blended = target.encode(references.blended, references.reference)
        mean, members = torch.where(is_between, 0.5 * (own + blended), own), (own, blended)
    if not recalibration.subjects:
        return prior._replace(mean=mean, members=members)

    def factor(name: str) -> Tensor:
        single, beyond, between = (getattr(getattr(recalibration, kind), name) for kind in KINDS)
        return torch.where(is_between, between, torch.where(is_pair, beyond, single))

    added = factor("noise") * prior.deviation
    spread = prior.spread and prior.spread.recalibrated(factor("motion"), factor("intensity"), added)
    return prior._replace(mean=factor("change") * mean, members=members, spread=spread)


def prior_network_of(config: ModelConfig, layout: ConditionChannels, modes: int = 0) -> PriorNetwork:
    """The prior network of the settings, for a condition of this layout.

    Args:
        modes: as in `PriorNetwork`.

    Raises:
        ValueError: the settings have none.
    """
    model = config.model
    if model.prior is None:
        raise ValueError("the settings have no model.prior")
    scale, motion = model.difference_scale or 1.0, model.target == "motion"
    return PriorNetwork(model.prior, layout, scale, motion=motion, modes=modes)
