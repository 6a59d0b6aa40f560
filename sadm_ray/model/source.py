"""The conditioner of the models that look at one scan only: the nearest observed one."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sadm_ray.config import ConditionerSettings
from sadm_ray.diffusion.target import nearest_observed
from sadm_ray.model.conditioner import Features
from sadm_ray.model.layers import Fourier, Grid, depth_to_space, space_to_depth


class SourceConditioner(nn.Module):
    """The source's own voxels, and the times of source and target: no attention, and nothing of other frames.

    Used as `Conditioner` is. Covariates are not used.
    """

    def __init__(self, settings: ConditionerSettings, channels: int, patch: Grid) -> None:
        super().__init__()
        self.patch, self.time_scale, self.decoded = patch, settings.time_scale, settings.channels
        self.when = Fourier(3, settings.channels)
        self.channels = self.decoded + channels * math.prod(patch)

    def encode(self, frames: Float[Tensor, "b t c d h w"], observed: Bool[Tensor, "b t"]) -> Features:
        """Nothing: there is no encoder."""
        return []

    def forward(
        self,
        features: Features,
        observed: Bool[Tensor, "b t"],
        times: Float[Tensor, "b t"],
        target_time: Float[Tensor, " b"],
        reference: Float[Tensor, "b c d h w"],
        covariates: Float[Tensor, "b n"] | None = None,
        visit_covariates: Float[Tensor, "b t m"] | None = None,
    ) -> Float[Tensor, "b k e f g"]:
        """The condition for one target a sequence: `channels` channels on the grid of the denoiser's stem."""
        nearest = nearest_observed(observed, times, target_time)
        source_time = times.gather(1, nearest[:, None])[:, 0]
        when = torch.stack([source_time, target_time, target_time - source_time], dim=1) / self.time_scale
        voxels = space_to_depth(2.0 * reference - 1.0, self.patch)
        said = self.when(when)[..., None, None, None].expand(-1, -1, *voxels.shape[-3:])
        return torch.cat([said, voxels.to(said.dtype)], dim=1)

    def reference(self, condition: Float[Tensor, "b k e f g"]) -> Float[Tensor, "b c d h w"]:
        """The source in [0, 1], from the condition that holds its voxels; of the null one, all ½."""
        return 0.5 * (depth_to_space(condition[:, self.decoded :], self.patch) + 1.0)
