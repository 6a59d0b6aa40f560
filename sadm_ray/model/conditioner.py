"""The sequence-aware conditioner: what the observed frames say about the target (paper, section 2.3).

    frames ──encode──▶ features, coarse and fine      once a frame; a rollout keeps them
    features, times, target time ──decode──▶ condition      once a target; it does not depend on the noise level

The paper's transformer reads fixed 12-frame sequences in which an absent frame is a black image. Here absent frames
are masked out of attention and times are continuous, so any number of frames, at any times, in any order, will do.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sadm_ray.config import ConditionerSettings, CovariateSettings
from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.model.condition_channels import ConditionChannels, presence_planes
from sadm_ray.model.covariates import Covariates, with_visit
from sadm_ray.model.layers import (
    Fourier,
    PatchSize,
    SpatialAttention,
    Stage,
    TemporalAttention,
    Tokens,
    space_to_depth,
)
from sadm_ray.model.memory_bounds import samples_at_once
from sadm_ray.model.resizing import resized

Features = list[Float[Tensor, "b t c d h w"]]
"""Encodings of frames, from fine to coarse."""


class FrameEncoder(nn.Module):
    """Each frame by itself: the lossless stem, then features at every level.

    Of several channels the stem is also told which a frame has.
    """

    def __init__(self, channels: int, patch: PatchSize, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.patch = patch
        stem = channels * math.prod(patch) + presence_planes(channels)
        self.enter = nn.ModuleList([nn.Conv3d(stem, widths[0], 1)])
        self.enter.extend(nn.Conv3d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.stages = nn.ModuleList(Stage(width, width, 1) for width in widths)

    def forward(
        self, volumes: Float[Tensor, "n c d h w"], has_channel: Bool[Tensor, "n c"] | None = None
    ) -> list[Float[Tensor, "n k e f g"]]:
        features = []
        x = space_to_depth(2.0 * volumes - 1.0, self.patch)
        if has_channel is not None:
            planes = has_channel[..., None, None, None].to(x.dtype)
            x = torch.cat([x, planes.expand(-1, -1, *x.shape[-3:])], dim=1)
        for enter, stage in zip(self.enter, self.stages, strict=True):
            x = stage(enter(x))
            features.append(x)
        return features


class Level(nn.Module):
    """One level of the temporal encoder: attention over the frames, then over space, then convolutions."""

    def __init__(self, width: int, heads: int, embedding: int, layers: int, *, everywhere: bool, tokens: bool) -> None:
        super().__init__()
        self.temporal = nn.ModuleList(
            TemporalAttention(width, width, heads, embedding, tokens=tokens) for _ in range(layers)
        )
        self.spatial = nn.ModuleList(
            SpatialAttention(width, heads) if everywhere else nn.Identity() for _ in range(layers)
        )
        self.stages = nn.ModuleList(Stage(width, width, 1, embedding) for _ in range(layers))

    def forward(
        self,
        x: Tensor,
        frames: Tensor,
        observed: Bool[Tensor, "b t"],
        when: Tensor,
        target: Tensor,
        tokens: Tokens | None,
    ) -> Tensor:
        for temporal, spatial, stage in zip(self.temporal, self.spatial, self.stages, strict=True):
            x = stage(spatial(temporal(x, frames, observed, when, tokens)), target)
        return x


class Conditioner(nn.Module):
    """Temporal encoder and spatial decoder.

    At the coarsest level a target token a site, made from the target's time, gathers what the frames say by attention
    over time and over space; the decoder brings it to the grid of the denoiser's stem, with temporal
    attention to the frames again at every level. The voxels of the reference's frames go along unchanged.

    Args:
        channels: of a volume.
        patch: of the denoiser's stem (d h w).
        covariates: what else may be known of subjects and visits.
        references: how many reference frames go along with their voxels, times and weights.
    """

    def __init__(
        self,
        settings: ConditionerSettings,
        channels: int,
        patch: PatchSize,
        covariates: tuple[CovariateSettings, ...] = (),
        *,
        references: int = 1,
    ) -> None:
        super().__init__()
        widths, embedding = settings.widths, settings.widths[-1]
        self.time_scale = settings.time_scale
        self.encoder = FrameEncoder(channels, settings.patch or patch, widths)
        self.when = Fourier(3, embedding)
        self.target_time = Fourier(1, embedding)
        self.query = nn.Linear(embedding, widths[-1])
        self.covariates = Covariates(covariates, embedding) if covariates else None
        last = len(widths) - 1
        self.levels = nn.ModuleList(
            Level(
                width,
                settings.heads,
                embedding,
                settings.layers if index == last else 1,
                everywhere=index == last,
                tokens=bool(covariates),
            )
            for index, width in enumerate(widths)
        )
        self.rise = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.out = nn.Conv3d(widths[0], settings.channels, 1)
        self.layout = ConditionChannels(settings.channels, references, channels, patch)

    def encode(
        self,
        frames: Float[Tensor, "b t c d h w"],
        observed: Bool[Tensor, "b t"],
        has_channel: Bool[Tensor, "b t c"] | None = None,
    ) -> Features:
        """Encode the observed frames, each by itself.

        Only they go through the network; what stands in an absent frame is not read, and its features are zeros.

        Args:
            has_channel: of several channels, which each frame has; the others are zeros.
        """
        features: Features = []
        places = observed.nonzero()
        most = len(places) if torch.is_grad_enabled() else samples_at_once(frames.shape[2:])
        for some in places.split(most):
            rows, slots = some.unbind(dim=1)
            told = () if has_channel is None else (has_channel[rows, slots],)
            encoded = self.encoder(frames[rows, slots], *told)
            features = features or [each.new_zeros(*observed.shape, *each.shape[1:]) for each in encoded]
            for level, packed in zip(features, encoded, strict=True):
                level[rows, slots] = packed
        return features

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
        """The condition for one target of each sequence, from what `encode` returned.

        Args:
            references: the reference frames of each target.
            covariates, visit_covariates: values of those of the subjects and of the visits; NaN is missing.
            target_covariates: of the target, as of any visit; those that are not planned are NaN. None: none is known.

        Returns:
            channels as `layout` says, on the grid of the denoiser's stem.
        """
        # The time of an absent frame must not matter either.
        past = torch.where(observed, times, target_time[:, None]) / self.time_scale
        now = (target_time / self.time_scale)[:, None]
        when = self.when(torch.stack([past, now.expand_as(past), now - past], dim=-1))
        target = self.target_time(now)
        tokens = None
        if self.covariates is not None:
            known, visits, visit_times = observed, visit_covariates, when
            if target_covariates is not None:  # a visit more, of which no frame is seen
                visits = with_visit(visits, target_covariates, observed.shape[1])
                known = F.pad(observed, (0, 1), value=True)
                at_target = self.when(torch.stack([now, now, torch.zeros_like(now)], dim=-1))
                visit_times = torch.cat([when, at_target], dim=1)
            tokens = self.covariates(covariates, visits, known, visit_times)
        x = self.query(target)[..., None, None, None].expand(-1, -1, *features[-1].shape[-3:])
        x = self.levels[-1](x, features[-1], observed, when, target, tokens)
        for index in reversed(range(len(features) - 1)):
            x = resized(self.rise[index](x), features[index].shape[-3:])
            x = self.levels[index](x, features[index], observed, when, target, tokens)
        return self.layout.pack(self.out(F.silu(x)), references, self.time_scale)
