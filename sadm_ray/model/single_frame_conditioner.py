"""The conditioner of the models that look at one scan only: the nearest observed one."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sadm_ray.config import ConditionerSettings
from sadm_ray.diffusion.reference_frames import ReferenceFrames, nearest_observed
from sadm_ray.model.condition_channels import ConditionChannels
from sadm_ray.model.conditioner import Features
from sadm_ray.model.layers import Fourier, PatchSize


class SingleFrameConditioner(nn.Module):
    """The source's own voxels, and the times of source and target: no attention, and nothing of other frames.

    Used as `Conditioner` is. Covariates are not used.
    """

    def __init__(self, settings: ConditionerSettings, channels: int, patch: PatchSize) -> None:
        super().__init__()
        self.time_scale = settings.time_scale
        self.when = Fourier(3, settings.channels)
        self.layout = ConditionChannels(settings.channels, 1, channels, patch)

    def encode(
        self,
        frames: Float[Tensor, "b t c d h w"],
        observed: Bool[Tensor, "b t"],
        has_channel: Bool[Tensor, "b t c"] | None = None,
    ) -> Features:
        """Nothing: there is no encoder."""
        return []

    def forward(
        self,
        features: Features,
        observed: Bool[Tensor, "b t"],
        times: Float[Tensor, "b t"],
        target_time: Float[Tensor, " b"],
        references: ReferenceFrames,
        covariates: Float[Tensor, "b n"] | None = None,
        visit_covariates: Float[Tensor, "b t v"] | None = None,
        target_covariates: Float[Tensor, "b v"] | None = None,
    ) -> Float[Tensor, "b k e f g"]:
        """The condition for one target of each sequence: channels of `layout`, on the grid of the denoiser's stem."""
        nearest = nearest_observed(observed, times, target_time)
        source_time = times.gather(1, nearest[:, None])[:, 0]
        when = torch.stack([source_time, target_time, target_time - source_time], dim=1) / self.time_scale
        grid = [size // patch for size, patch in zip(references.frames.shape[-3:], self.layout.patch, strict=True)]
        embedded = self.when(when)[..., None, None, None].expand(-1, -1, *grid)
        return self.layout.pack(embedded, references, self.time_scale)
