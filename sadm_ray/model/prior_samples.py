"""Samples of the prior: they differ from its mean as whole motions, and by intensities that neighbours share.

What is uncertain in an organ is how the whole of it moves or grows. So the prior network also predicts modes, motions
of one standard deviation each, with the channels that `motion_residual` takes: a sample moves by the mean's motion and
by the modes, each times a number of its own. A mode times a number is a motion again, so a sample shows the tissue that
the frames show, not a blur of all that may happen. What no motion explains is added: noise as it is, and smoothed over
wider and wider neighbourhoods, each with a deviation that the network predicts.

Modes and deviations are learned by the continuous ranked probability score of two samples at several resolutions
(Lang et al., AIFS-CRPS, 2024; Alet et al., Skillful joint probabilistic weather forecasting from marginals, 2025): a
score of each voxel alone does not see whether neighbours err together, that of their means does. The features are those
that predict the mean, and no gradient reaches these: the mean stays the best point prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sadm_ray.diffusion.loss import channel_mean
from sadm_ray.model.finite_differences import AXES, axes_within_slices
from sadm_ray.model.resizing import resized
from sadm_ray.model.unet import SmoothOutputs

RANGES = (0.0, 1.0, 2.0)
"""Deviations, in voxels, of the Gaussians that noise is smoothed by."""
MEMBERS = 2
"""Samples of each target in training."""
FAIRNESS = 0.95
"""Of almost fair CRPS: 1 would let samples run away together (Lang et al., 2024)."""
SCALES = (1, 2, 4, 8)
"""Edges of the blocks of voxels whose means are scored."""
INITIAL_WEIGHT, LOG_SHARE = 0.01, 4.0
"""The deviation of a mode's first weights; one unit of output in the logarithm of a deviation of noise."""


class Spread(NamedTuple):
    """How samples differ from the mean. Nothing of the mean is differentiated through it.

    Attributes:
        moved: from motion on the voxels' grid to the change of the reference, in units of x.
        motion: of the mean.
        change: what `moved` makes of it.
        modes: motions of one standard deviation.
        log_shares: of each range of noise and each channel, as shares of the prior's deviation.
    """

    moved: Callable[[Tensor], Tensor]
    motion: Float[Tensor, "b k e f g"]
    change: Float[Tensor, "b c d h w"]
    modes: Float[Tensor, "b m k e f g"]
    log_shares: Float[Tensor, "b n e f g"]

    def sample(
        self,
        numbers: Float[Tensor, "b m"],
        white: Float[Tensor, "b n d h w"],
        deviation: Float[Tensor, "b c d h w"],
    ) -> Float[Tensor, "b c d h w"]:
        """A sample less the mean, in units of x.

        Args:
            numbers: how many standard deviations of each mode.
            white: white noise for each of `RANGES` and each channel.
            deviation: of each voxel, as the prior predicts it.
        """
        moved, intensities = self.parts(numbers, white, deviation)
        return moved + intensities

    def parts(
        self, numbers: Float[Tensor, "b m"], white: Float[Tensor, "b n d h w"], deviation: Float[Tensor, "b c d h w"]
    ) -> tuple[Float[Tensor, "b c d h w"], Float[Tensor, "b c d h w"]]:
        """What its motion changes, and its intensities; the sum is the `sample`."""
        size = deviation.shape[-3:]
        motion = self.motion + torch.einsum("bm,bmkefg->bkefg", numbers, self.modes)
        shares = resized(self.log_shares, size).exp().unflatten(1, (len(RANGES), -1))
        intensities = (shares * smoothed(white.unflatten(1, (len(RANGES), -1)))).sum(dim=1)
        return self.moved(resized(motion, size)) - self.change, deviation * intensities

    def scaled(self, motion: Float[Tensor, "b 1 1 1 1"], intensity: Float[Tensor, "b 1 1 1 1"]) -> Spread:
        """With motions and intensities that are so many times as far from the mean."""
        return self._replace(modes=motion[:, None] * self.modes, log_shares=self.log_shares + intensity.log())

    def noises(self, eps: Float[Tensor, "b n d h w"]) -> list[tuple[Float[Tensor, "b m"], Float[Tensor, "b k d h w"]]]:
        """Numbers of the modes and white noise of each of the `MEMBERS`.

        Args:
            eps: standard normal; `noise_channels` for each member, the last of which begins with its modes' numbers.
        """
        white = self.log_shares.shape[1]
        members = [each.split([white, 1], dim=1) for each in eps.chunk(MEMBERS, dim=1)]
        return [(rest.flatten(1)[:, : self.modes.shape[1]], noise) for noise, rest in members]


class SpreadNetwork(nn.Module):
    """Features of the prior's U-Net → `Spread`.

    Args:
        widths: of the U-Net.
        modes: how many.
        motion: channels of a motion.
        channels: of a volume.
    """

    def __init__(self, widths: Sequence[int], modes: int, motion: int, channels: int) -> None:
        super().__init__()
        self.size, self.noise_channels = (modes, motion), len(RANGES) * channels + 1
        self.modes = SmoothOutputs(widths, modes * motion)
        self.log_shares = SmoothOutputs(widths, len(RANGES) * channels)
        for name, parameter in self.modes.named_parameters():
            if name.endswith("2.weight"):
                nn.init.normal_(parameter, std=INITIAL_WEIGHT)

    def forward(
        self,
        features: Sequence[Tensor],
        moved: Callable[[Tensor], Tensor],
        motion: Float[Tensor, "b k e f g"],
        change: Float[Tensor, "b c d h w"],
    ) -> Spread:
        # PyTorch 2.13 crashes in the gradient of a normalisation whose input, last axis channels, has none.
        features = [each.detach().requires_grad_(torch.is_grad_enabled()) for each in features]
        modes = self.modes(features).float().unflatten(1, self.size)
        log_shares = LOG_SHARE * self.log_shares(features).float() - 0.5 * math.log(len(RANGES) + 1)
        return Spread(moved, motion.detach(), change.detach(), modes, log_shares)


def smoothed(white: Float[Tensor, "b s c d h w"]) -> Float[Tensor, "b s c d h w"]:
    """White noise of each of `RANGES`, smoothed within slices by that Gaussian; of unit variance at every voxel."""
    along = axes_within_slices(white.shape[-3:])
    ranges = []
    for width, noise in zip(RANGES, white.unbind(dim=1), strict=True):
        for axis in along if width else ():
            noise = (noise.movedim(axis, -1) @ _gaussian(noise.shape[axis], width, noise.device)).movedim(-1, axis)
        ranges.append(noise)
    return torch.stack(ranges, dim=1)


def _gaussian(length: int, width: float, device: torch.device) -> Float[Tensor, "n n"]:
    """The matrix that smooths noise along an axis and keeps its variance."""
    return _gaussian_on_cpu(length, width).to(device)


@cache
def _gaussian_on_cpu(length: int, width: float) -> Float[Tensor, "n n"]:
    places = torch.arange(length, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((places[:, None] - places) / width).square())
    return weights / weights.square().sum(dim=0).sqrt()


def spread_loss(
    error: Float[Tensor, "b c d h w"],
    samples: Sequence[Float[Tensor, "b c d h w"]],
    counted: Bool[Tensor, "b c"] | None = None,
) -> Float[Tensor, " b"]:
    """The almost fair CRPS of two samples, averaged over the blocks of each of `SCALES`.

    Args:
        error: of the mean: x less the mean.
        samples: each less the mean.
        counted: as in `loss.channel_mean`.
    """
    one, other = samples
    losses = []
    for scale in SCALES:
        truth, first, second = (block_means(each, scale) for each in (error, one, other))
        far = 0.5 * ((first - truth).abs() + (second - truth).abs())
        losses.append(channel_mean(far - 0.5 * (1.0 - 0.5 * (1.0 - FAIRNESS)) * (first - second).abs(), counted))
    return torch.stack(losses).mean(dim=0)


def block_means(volume: Float[Tensor, "b c d h w"], scale: int) -> Float[Tensor, "b c e f g"]:
    """The means of blocks with this edge within slices, the whole of a shorter axis."""
    along = axes_within_slices(volume.shape[-3:])
    edges = [min(scale, volume.shape[axis]) if axis in along else 1 for axis in AXES]
    return F.avg_pool3d(volume, edges) if scale > 1 else volume
