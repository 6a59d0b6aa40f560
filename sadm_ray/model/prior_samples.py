"""Samples of the prior: the reference frames moved by displacement fields that differ as whole motions.

What is uncertain in an organ is how the whole of it moves or grows. So a sample is not the prior's mean with something
added, which would add speckle to a blur: it is the frames themselves, moved. The prior network predicts for it the
motion of the frames, modes (displacement fields of one standard deviation, each times a number of the sample's own) and
the deviation of displacements that only neighbours share. A little noise of the intensities, smoothed over wider and
wider neighbourhoods, is what no motion explains.

All of it is learned by the continuous ranked probability score of two samples at several resolutions (Lang et al.,
AIFS-CRPS, 2024; Alet et al., Skillful joint probabilistic weather forecasting from marginals, 2025): a score of each
voxel alone does not see whether neighbours err together, that of their means does. The features are those that predict
the mean, and no gradient reaches these: the mean stays the best point prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sadm_ray.diffusion.loss import channel_mean
from sadm_ray.diffusion.samplers import SeededNoise
from sadm_ray.model.displacement_field import VELOCITY, frame_fields, move_frames, reach_of, speed_of, warp
from sadm_ray.model.finite_differences import AXES, axes_within_slices
from sadm_ray.model.layers import PatchSize, depth_to_space
from sadm_ray.model.resizing import resized
from sadm_ray.model.unet import SmoothOutputs, last_layer

RANGES = (0.0, 1.0, 2.0)
"""Deviations, in voxels, of the Gaussians that noise of the intensities is smoothed by."""
SITE_RANGES = (1.0, 2.0)
"""The same of displacements that neighbours share, in sites of the network's grid."""
MEMBERS = 2
"""Samples of each target in training."""
FAIRNESS = 0.95
"""Of almost fair CRPS: 1 would let samples run away together (Lang et al., 2024)."""
SCALES = (1, 2, 4, 8)
"""Edges of the blocks of voxels whose means are scored."""
INITIAL_WEIGHT, INITIAL_LOG_DISPLACEMENT, INITIAL_INTENSITY = 0.01, -3.0, 0.01
"""Before training: the deviation of a mode's first weights; that of a shared displacement, the logarithm of its units;
that of each range of noise, in units of intensity."""
LOG_DEVIATION = 4.0
"""One unit of output in the logarithm of a deviation."""


class Spread(NamedTuple):
    """How samples are drawn. Nothing of the mean is differentiated through it.

    Attributes:
        frames: of the reference.
        weights: of each in the reference.
        scale: of x, in units of intensity.
        fields: that move the frames where no sample differs, in voxels.
        residual: what is added to the moved frames, in units of x; it moves with a sample.
        modes: displacement fields of one standard deviation, in voxels.
        local: the deviation of displacements that neighbours share, for each of `SITE_RANGES`, in voxels.
        log_noise: the logarithm of the deviation of each range of noise and each channel, in units of x.
        added: the deviation of `added_noise`, in units of x; none: nothing is added.
    """

    frames: Float[Tensor, "b s c d h w"]
    weights: Float[Tensor, "b s"]
    scale: float
    fields: Float[Tensor, "b s 3 d h w"]
    residual: Float[Tensor, "b c d h w"]
    modes: Float[Tensor, "b m 3 e f g"]
    local: Float[Tensor, "b r 3 e f g"]
    log_noise: Float[Tensor, "b n e f g"]
    added: Float[Tensor, "b c d h w"] | None = None

    @property
    def numbers(self) -> int:
        """How many standard normal numbers a displacement takes."""
        return self.modes.shape[1] + math.prod(self.local.shape[1:])

    def displacement(self, numbers: Float[Tensor, "b q"]) -> Float[Tensor, "b 3 d h w"]:
        """By how much the fields of a sample differ from `fields`, in voxels.

        Args:
            numbers: standard normal, `numbers` of them: of each mode, then of each site.
        """
        of_modes, of_sites = numbers.split([self.modes.shape[1], self.numbers - self.modes.shape[1]], dim=1)
        shared = smoothed(of_sites.unflatten(1, self.local.shape[1:]), SITE_RANGES)
        field = torch.einsum("bm,bmkefg->bkefg", of_modes, self.modes) + (self.local * shared).sum(dim=1)
        return resized(field, self.frames.shape[-3:])

    def moved(self, displacement: Float[Tensor, "b 3 d h w"]) -> Float[Tensor, "b c d h w"]:
        """A sample without noise, in units of x: what moving the frames by so much more changes."""
        change = move_frames(self.frames, self.fields + displacement[:, None]) - self.frames
        moved = torch.einsum("bs,bscdhw->bcdhw", self.weights, change) / self.scale
        return moved + warp(self.residual, displacement)

    def moved_fields(self, noise: SeededNoise | None) -> Float[Tensor, "b s 3 d h w"]:
        """The fields of each sample that is drawn with this noise; None: those of no sample, `fields`."""
        if noise is None:
            return self.fields
        return self.fields + self.displacement(noise.kept((self.numbers,)))[:, None]

    def noise(self, white: Float[Tensor, "b n d h w"]) -> Float[Tensor, "b c d h w"]:
        """What no motion explains, in units of x.

        Args:
            white: white noise for each of `RANGES` and each channel.
        """
        deviations = resized(self.log_noise, white.shape[-3:]).exp().unflatten(1, (len(RANGES), -1))
        return (deviations * smoothed(white.unflatten(1, (len(RANGES), -1)), RANGES)).sum(dim=1)

    def sample(self, numbers: Float[Tensor, "b q"], white: Float[Tensor, "b n d h w"]) -> Float[Tensor, "b c d h w"]:
        """A sample of x. Arguments: those of `displacement` and of `noise`."""
        return self.moved(self.displacement(numbers)) + self.noise(white)

    def recalibrated(
        self,
        motion: Float[Tensor, "b 1 1 1 1"],
        intensity: Float[Tensor, "b 1 1 1 1"],
        added: Float[Tensor, "b c d h w"] | None,
    ) -> Spread:
        """With displacements and noise that are so many times as large, and with added noise of this deviation."""
        by = motion[:, None]
        return self._replace(
            modes=by * self.modes, local=by * self.local, log_noise=self.log_noise + intensity.log(), added=added
        )

    def noises(self, eps: Float[Tensor, "b n d h w"]) -> list[tuple[Float[Tensor, "b q"], Float[Tensor, "b k d h w"]]]:
        """The numbers and the white noise of each of the `MEMBERS`, the arguments of `sample`.

        Args:
            eps: standard normal, of the channels that `noise_channels` says.
        """
        white = self.log_noise.shape[1]
        members = [each.tensor_split([white], dim=1) for each in eps.chunk(MEMBERS, dim=1)]
        return [(rest.flatten(1)[:, : self.numbers], noise) for noise, rest in members]


class SpreadNetwork(nn.Module):
    """Features of the prior's U-Net → `Spread`.

    Args:
        widths: of the U-Net.
        modes: how many.
        references: frames of the reference.
        channels: of a volume.
        patch: voxels of a site of the U-Net's grid.
    """

    def __init__(self, widths: Sequence[int], modes: int, references: int, channels: int, patch: PatchSize) -> None:
        super().__init__()
        self.motion_modes, self.white, self.patch = modes, len(RANGES) * channels, patch
        self.motion = SmoothOutputs(widths, 3 * references + references - 1)
        self.residual = last_layer(widths[0], channels * math.prod(patch))
        self.modes = SmoothOutputs(widths, 3 * modes)
        self.local = SmoothOutputs(widths, 3 * len(SITE_RANGES))
        self.noise = SmoothOutputs(widths, self.white)
        for name, parameter in self.modes.named_parameters():
            if name.endswith("2.weight"):
                nn.init.normal_(parameter, std=INITIAL_WEIGHT)

    def noise_channels(self, volume: Sequence[int]) -> int:
        """How many channels of noise, on the grid of the voxels d h w, all members of a training sample take."""
        sites = math.prod(volume) // math.prod(self.patch)
        numbers = self.motion_modes + 3 * len(SITE_RANGES) * sites
        return MEMBERS * (self.white + math.ceil(numbers / math.prod(volume)))

    def forward(
        self,
        features: Sequence[Tensor],
        frames: Float[Tensor, "b s c d h w"],
        time_from_target: Float[Tensor, "b s"],
        weights: Float[Tensor, "b s"],
        displacement: Float[Tensor, "b 3 d h w"] | None,
        scale: float,
    ) -> Spread:
        """The spread; `frames` to `displacement` as in `motion_residual`, `scale` as in `Spread`."""
        # PyTorch 2.13 crashes in the gradient of a normalisation whose input, last axis channels, has none.
        features = [each.detach().requires_grad_(torch.is_grad_enabled()) for each in features]
        frames, time_from_target, weights = frames.detach(), time_from_target.detach(), weights.detach()
        motion = resized(self.motion(features).float(), frames.shape[-3:])
        velocities, leap = motion.tensor_split([3 * frames.shape[1]], dim=1)
        fields = frame_fields(time_from_target, velocities, leap, displacement)
        alone = (time_from_target[:, 0] == time_from_target[:, -1])[:, None, None, None, None, None]
        together = torch.einsum("bs,bskdhw->bkdhw", weights, fields)[:, None]
        reach = reach_of(time_from_target)
        unit = VELOCITY * reach * speed_of(displacement)
        log_local = LOG_DEVIATION * self.local(features).float() + INITIAL_LOG_DISPLACEMENT
        return Spread(
            frames,
            weights,
            scale,
            torch.where(alone, together, fields),  # a frame that is alone stands in both places: it is not doubled
            reach * depth_to_space(self.residual(features[-1]).float(), self.patch),
            unit[:, None] * self.modes(features).float().unflatten(1, (-1, 3)),
            unit[:, None] * log_local.exp().unflatten(1, (-1, 3)),
            LOG_DEVIATION * self.noise(features).float() + math.log(INITIAL_INTENSITY / scale),
        )


def smoothed(white: Float[Tensor, "b s c d h w"], widths: Sequence[float]) -> Float[Tensor, "b s c d h w"]:
    """White noise, smoothed within slices by the Gaussian of each width; of unit variance at every voxel."""
    along = axes_within_slices(white.shape[-3:])
    ranges = []
    for width, noise in zip(widths, white.unbind(dim=1), strict=True):
        for axis in along if width else ():
            noise = (noise.movedim(axis, -1) @ _gaussian(noise.shape[axis], width, noise.device)).movedim(-1, axis)
        ranges.append(noise)
    return torch.stack(ranges, dim=1)


def added_noise(white: Float[Tensor, "b n d h w"]) -> Float[Tensor, "b c d h w"]:
    """Noise of unit variance, of all `RANGES` in equal parts. The argument is as that of `Spread.noise`."""
    return smoothed(white.unflatten(1, (len(RANGES), -1)), RANGES).sum(dim=1) / math.sqrt(len(RANGES))


def _gaussian(length: int, width: float, device: torch.device) -> Float[Tensor, "n n"]:
    """The matrix that smooths noise along an axis and keeps its variance."""
    return _gaussian_on_cpu(length, width).to(device)


@cache
def _gaussian_on_cpu(length: int, width: float) -> Float[Tensor, "n n"]:
    places = torch.arange(length, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((places[:, None] - places) / width).square())
    return weights / weights.square().sum(dim=0).sqrt()


def spread_loss(
    x: Float[Tensor, "b c d h w"],
    samples: Sequence[Float[Tensor, "b c d h w"]],
    counted: Bool[Tensor, "b c"] | None = None,
) -> Float[Tensor, " b"]:
    """The almost fair CRPS of two samples, averaged over the blocks of each of `SCALES`.

    Args:
        x: the target.
        samples: of it.
        counted: as in `loss.channel_mean`.
    """
    one, other = samples
    losses = []
    for scale in SCALES:
        truth, first, second = (block_means(each, scale) for each in (x, one, other))
        far = 0.5 * ((first - truth).abs() + (second - truth).abs())
        losses.append(channel_mean(far - 0.5 * (1.0 - 0.5 * (1.0 - FAIRNESS)) * (first - second).abs(), counted))
    return torch.stack(losses).mean(dim=0)


def block_means(volume: Float[Tensor, "b c d h w"], scale: int) -> Float[Tensor, "b c e f g"]:
    """The means of blocks with this edge within slices, the whole of a shorter axis."""
    along = axes_within_slices(volume.shape[-3:])
    edges = [min(scale, volume.shape[axis]) if axis in along else 1 for axis in AXES]
    return F.avg_pool3d(volume, edges) if scale > 1 else volume
