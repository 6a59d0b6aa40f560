"""The Gaussian guess: what is expected of a target before any noise is looked at, and how far off that may be.

It depends on the condition alone: a sampler needs it once a target, and every training sample teaches it, whatever its
noise level. The diffusion then corrects it (`sadm_ray.diffusion.posterior`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sadm_ray.config import NetworkSettings
from sadm_ray.diffusion.posterior import LOG_VARIANCE_RANGE
from sadm_ray.model.config import ModelConfig
from sadm_ray.model.layers import Grid, depth_to_space, space_to_depth
from sadm_ray.model.layout import Layout
from sadm_ray.model.motion import change_by_motion, motion_channels
from sadm_ray.model.registration import slope
from sadm_ray.model.unet import UNet

VARIANCE_RANGE = (1e-3, 1.0)
"""Between these what is expected of a target decides how much it counts in training."""
LIKELIHOOD_WEIGHT = 0.2
LOG_VARIANCE = 24.0
"""One unit of the network's output in log s²: variances differ by orders of magnitude."""
ASTRAY, NOISE = 1.5, 0.02
"""How far off a position is at first taken to be, in voxels after one unit of the time scale; and any intensity."""


class Guess(NamedTuple):
    """Mean and log variance of every voxel of x."""

    mean: Float[Tensor, "b c d h w"]
    log_variance: Float[Tensor, "b c d h w"]

    @staticmethod
    def width(layout: Layout) -> int:
        """How many channels `on_grid` makes."""
        return 2 * layout.channels * math.prod(layout.patch)

    def on_grid(self, patch: Grid) -> Float[Tensor, "b k e f g"]:
        """As channels on the grid of a stem; `from_grid` is the inverse."""
        return torch.cat([space_to_depth(self.mean, patch), 0.25 * space_to_depth(self.log_variance, patch)], dim=1)

    @classmethod
    def from_grid(cls, told: Float[Tensor, "b k e f g"], patch: Grid) -> Guess:
        """From the channels that `on_grid` made."""
        mean, log_variance = (depth_to_space(each.float(), patch) for each in told.chunk(2, dim=1))
        return cls(mean, 4.0 * log_variance)

    @property
    def variance(self) -> Float[Tensor, " b"]:
        """That of each target, averaged over its voxels; not differentiated."""
        return self.log_variance.detach().exp().flatten(1).mean(dim=1).clamp(*VARIANCE_RANGE)

    def loss(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, " b"]:
        """The squared error of the mean over the root of what is expected of it, and the likelihood of the variance.

        The mean is not fitted by likelihood, which would not care for it where the variance is large (Seitzer et al.,
        On the Pitfalls of Heteroscedastic Uncertainty Estimation, 2022).
        """
        squared = (x - self.mean).square()
        likelihood = 0.5 * (self.log_variance + squared.detach() * torch.exp(-self.log_variance))
        error, surprise = (each.flatten(1).mean(dim=1) for each in (squared, likelihood))
        return error / self.variance.sqrt() + LIKELIHOOD_WEIGHT * surprise


class Guesser(nn.Module):
    """condition → `Guess`. At first it expects the reference itself, and to be wrong where that has edges.

    What it says is in proportion to the time from the nearest frame of the reference, at which the reference is right.

    Args:
        layout: of the condition, which holds the frames of the reference.
        scale: of x, in units of intensity.
        motion: whether the mean is also said by displacements (`sadm_ray.model.motion`).
    """

    def __init__(self, settings: NetworkSettings, layout: Layout, scale: float, *, motion: bool) -> None:
        super().__init__()
        self.layout, self.scale = layout, scale
        self._sizes = [layout.channels, layout.channels, motion_channels(layout.sides) * motion]
        self.unet = UNet(settings, layout.patch, layout.width, 2 * layout.channels, smooth=self._sizes[-1])

    def forward(self, condition: Float[Tensor, "b k e f g"]) -> Guess:
        residual, log_variance, motion = self.unet(condition).float().split(self._sizes, dim=1)
        ahead = self.layout.ahead_of(condition)
        reach = ahead.abs().amin(dim=1)[:, None, None, None, None]
        mean = reach * residual
        if motion.shape[1]:
            frames, weights = self.layout.frames_of(condition), self.layout.weights_of(condition)
            path = self.layout.path_of(condition)
            mean = mean + change_by_motion(frames, ahead, weights, motion, path) / self.scale
        expected = self.layout.reference_of(condition.detach()) + self.scale * mean.detach()
        astray = ASTRAY * reach * steepness(expected)
        at_first = torch.log(astray.square() + NOISE**2) - 2.0 * math.log(self.scale)
        return Guess(mean, (at_first + LOG_VARIANCE * log_variance).clamp(*LOG_VARIANCE_RANGE))


def steepness(volume: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
    """The length of the gradient, per voxel, by central differences; outside stands the nearest voxel."""
    squares = torch.zeros_like(volume)
    for axis in (2, 3, 4):
        squares += slope(volume, axis).square()
    return squares.sqrt()


def guesser_of(config: ModelConfig, layout: Layout) -> Guesser:
    """The network that the settings ask for, on a condition of this layout.

    Raises:
        ValueError: they ask for none.
    """
    model = config.model
    if model.guess is None:
        raise ValueError("the settings have no model.guess")
    return Guesser(model.guess, layout, model.difference_scale or 1.0, motion=model.target == "motion")
