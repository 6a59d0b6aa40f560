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
from sadm_ray.diffusion.target import Target
from sadm_ray.model.config import ModelConfig
from sadm_ray.model.context import Given
from sadm_ray.model.layers import Grid, depth_to_space, space_to_depth
from sadm_ray.model.layout import Layout
from sadm_ray.model.motion import change_by_motion, motion_channels
from sadm_ray.model.nearby import steepness
from sadm_ray.model.unet import UNet

VARIANCE_RANGE = (1e-3, 1.0)
"""Between these what is expected of a target decides how much it counts in training."""
LIKELIHOOD_WEIGHT = 0.2
ERROR_FLOOR = 1e-3
"""A mean squared error of x that is as good as none."""
LOG_VARIANCE = 24.0
"""One unit of the network's output in log s²: variances differ by orders of magnitude."""
TOGETHER = 1.4
"""How much of the mean of two opinions is believed of somebody new: each leaves out what it is not sure of, and the two
know different things (docs/findings.md: in a single step every fold is better with 1.2 as with 1.4)."""
ASTRAY, NOISE = 1.5, 0.02
"""How far off a position is at first taken to be, in voxels after one unit of the time scale; and any intensity."""


class Guess(NamedTuple):
    """Mean and log variance of every voxel of x; and the two opinions, if the mean is one of two.

    The second is 0, the reference, where the target is not between two frames: there is none, and none is taught.
    """

    mean: Float[Tensor, "b c d h w"]
    log_variance: Float[Tensor, "b c d h w"]
    opinions: tuple[Float[Tensor, "b c d h w"], Float[Tensor, "b c d h w"]] | None = None

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
        On the Pitfalls of Heteroscedastic Uncertainty Estimation, 2022). Two opinions are each fitted by itself, that
        they err in different ways: the second by the logarithm of its error, as the reference's is (a part of it counts
        alike in everybody).
        """
        own, second = self.opinions or (self.mean, None)
        squared = (x - self.mean).square().detach()
        likelihood = 0.5 * (self.log_variance + squared * torch.exp(-self.log_variance))
        loss = _mean((x - own).square()) / self.variance.sqrt() + LIKELIHOOD_WEIGHT * _mean(likelihood)
        if second is None:
            return loss
        unchanged = _mean(x.detach().square()) + ERROR_FLOOR
        return loss + 0.5 * torch.log((_mean((x - second).square()) + ERROR_FLOOR) / unchanged)


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


def _mean(volume: Float[Tensor, "b c d h w"]) -> Float[Tensor, " b"]:
    return volume.flatten(1).mean(dim=1)


def guess_of(guesser: Guesser, given: Given, target: Target, strength: float = 1.0, together: float = 1.0) -> Guess:
    """What is expected of x, all told: between two frames the mean of two opinions.

    Args:
        strength: by which the guesser's own opinion is multiplied. The second is not too sure of itself.
        together: by which the mean of the two is multiplied: 1 where they are taught, `TOGETHER` where they are asked.
    """
    guess = guesser(given.condition)
    own, sides = strength * guess.mean, given.sides
    if sides.opinion is None:
        return guess._replace(mean=own)
    second = target.encode(sides.opinion, sides.reference)
    is_between = sides.is_between[:, None, None, None, None]
    return guess._replace(mean=torch.where(is_between, 0.5 * together * (own + second), own), opinions=(own, second))


def guesser_of(config: ModelConfig, layout: Layout) -> Guesser:
    """The network that the settings ask for, on a condition of this layout.

    Raises:
        ValueError: they ask for none.
    """
    model = config.model
    if model.guess is None:
        raise ValueError("the settings have no model.guess")
    return Guesser(model.guess, layout, model.difference_scale or 1.0, motion=model.target == "motion")
