"""Sequences with their encoded frames, computed once, and the context of one target of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sadm_ray.diffusion.reference_frames import ReferenceFrames, rows_of
from sadm_ray.model.conditioner import Features
from sadm_ray.model.covariates import with_visit


@dataclass(frozen=True)
class EncodedSequences:
    """Some sequences: their frames, and the features that the conditioner encoded from them once.

    `size` (d h w) is that of a volume before padding; the other fields are as in `SequenceModel.generate`. Channels
    that a frame lacks are zeros; `has_channel` is none of volumes with one. `target_covariates` are those of the
    targets that will be rolled out, in their order.
    """

    frames: Float[Tensor, "b t c D H W"]
    features: Features
    observed: Bool[Tensor, "b t"]
    times: Float[Tensor, "b t"]
    covariates: Float[Tensor, "b n"] | None
    visit_covariates: Float[Tensor, "b t m"] | None
    size: tuple[int, ...]
    has_channel: Bool[Tensor, "b t c"] | None = None
    target_covariates: Float[Tensor, "b m v"] | None = None

    @property
    def known_channels(self) -> Bool[Tensor, "b c"] | None:
        """The channels that some observed frame has: of others nothing is known, so that nothing is predicted."""
        return None if self.has_channel is None else (self.observed[..., None] & self.has_channel).any(dim=1)

    @property
    def limits(self) -> tuple[Float[Tensor, "b c 1 1 1"], Float[Tensor, "b c 1 1 1"]]:
        """The range of a generated frame's intensities: 0 to 1, or the observed range where that is wider.

        A range that was normalised by one scan, or by most of the voxels, may be exceeded by others.
        """
        ranges = [frame.flatten(3).aminmax(dim=3) for frame in self.frames.split(1, dim=1)]  # no copy of all frames
        low = torch.cat([each.min for each in ranges], dim=1).where(self.observed[..., None], 0.0).amin(dim=1)
        high = torch.cat([each.max for each in ranges], dim=1).where(self.observed[..., None], 0.0).amax(dim=1)
        return low.clamp(max=0.0)[..., None, None, None], high.clamp(min=1.0)[..., None, None, None]

    def of(self, sequences: Sequence[int]) -> EncodedSequences:
        """These sequences, of which one may stand there more than once."""

        def chosen(each: Tensor | None) -> Any:
            return None if each is None else rows_of(each, sequences)

        return replace(
            self,
            frames=chosen(self.frames),
            features=[chosen(level) for level in self.features],
            observed=chosen(self.observed),
            times=chosen(self.times),
            covariates=chosen(self.covariates),
            visit_covariates=chosen(self.visit_covariates),
            has_channel=chosen(self.has_channel),
            target_covariates=chosen(self.target_covariates),
        )

    def appended(
        self, features: Features, time: Float[Tensor, " b"], covariates: Float[Tensor, "b v"] | None = None
    ) -> EncodedSequences:
        """With one more observed frame.

        Its voxels are not among `frames`, nor what channels it has among theirs: references are scans, the conditioner
        reads features.

        Args:
            covariates: under which it was generated; None: of its covariates nothing is known.
        """
        visits = with_visit(self.visit_covariates, covariates, self.observed.shape[1])
        return replace(
            self,
            features=[torch.cat([old, new], dim=1) for old, new in zip(self.features, features, strict=True)],
            observed=torch.cat([self.observed, self.observed.new_ones(len(time), 1)], dim=1),
            times=torch.cat([self.times, time[:, None]], dim=1),
            visit_covariates=visits,
        )


@dataclass(frozen=True)
class TargetContext:
    """What a model needs for one target of each sequence.

    Attributes:
        condition: the conditioner's output for the sequence and the target's time.
        references: the frames of the reference: the nearest scanned one, or those before and after the target.
        gap: how much later than the nearest scanned frame the target is, in units of `time_scale`.
    """

    condition: Float[Tensor, "b k e f g"]
    references: ReferenceFrames
    gap: Float[Tensor, " b"]

    @property
    def reference(self) -> Float[Tensor, "b c D H W"]:
        """What the target is compared with, in [0, 1]."""
        return self.references.reference

    def of(self, targets: Sequence[int]) -> TargetContext:
        """These targets, of which one may stand there more than once."""
        condition, gap = (rows_of(each, targets) for each in (self.condition, self.gap))
        return TargetContext(condition, self.references.of(targets), gap)

    def without_condition(self, chosen: Bool[Tensor, " b"]) -> TargetContext:
        """With the null condition for the chosen ones."""
        return replace(self, condition=torch.where(chosen[:, None, None, None, None], 0.0, self.condition))
