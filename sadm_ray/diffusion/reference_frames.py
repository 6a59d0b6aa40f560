"""The reference: the volume that a target is compared with, from one or two observed frames.

It is the nearest observed frame, or the weighted mean of the observed frames before and after the target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Volume = Float[Tensor, "b c d h w"]

FAR_ENOUGH = 1 / 6
"""The least time between two frames on one side of the target, as a share of that from the nearer one to the target."""


@dataclass(frozen=True)
class ReferenceFrames:
    """The observed frames that make up the reference of each target.

    Attributes:
        frames: in [0, 1].
        time_from_target: how much later than the target each was acquired, in the units of the times.
        weights: of each in the reference; they add up to one.
        displacement: the displacement field from the first to the second per unit of the times, in voxels along d h w;
            none without registration.
        blended: the target as frame blending predicts it from these frames alone, in [0, 1]; none without it.
        has_channel: which channels each frame has itself, of several; the others are filled (`with_channels_filled`).
        channel_time: as `time_from_target`, of the scan that each channel is from.
        places: the index of each in its sequence; none where that is not known.
    """

    frames: Float[Tensor, "b s c d h w"]
    time_from_target: Float[Tensor, "b s"]
    weights: Float[Tensor, "b s"]
    displacement: Float[Tensor, "b 3 d h w"] | None = None
    blended: Volume | None = None
    has_channel: Bool[Tensor, "b s c"] | None = None
    channel_time: Float[Tensor, "b s c"] | None = None
    places: Int[Tensor, "b s"] | None = None

    @property
    def is_between(self) -> Bool[Tensor, " b"]:
        """Whether the target lies between two frames, so that both make the reference.

        A frame that is alone stands in both places, and then its weights say nothing.
        """
        return self.is_pair & (self.weights > 0).all(dim=1) & (self.weights < 1).all(dim=1)

    @property
    def is_pair(self) -> Bool[Tensor, " b"]:
        """Whether there are two: a frame that is alone stands in both places."""
        return self.time_from_target[:, 0] != self.time_from_target[:, -1]

    @property
    def reference(self) -> Volume:
        """Σ weight · frame, in [0, 1]: what the target is compared with."""
        return torch.einsum("bs,bscdhw->bcdhw", self.weights, self.frames)

    @property
    def distance(self) -> Float[Tensor, "b 1 d h w"]:
        """How far each voxel moves from the first frame to the second, in voxels; 0 without registration."""
        if self.displacement is None:
            return torch.zeros_like(self.frames[:, 0, :1])
        between = (self.time_from_target[:, 1] - self.time_from_target[:, 0]).abs()[:, None, None, None, None]
        return between * self.displacement.square().sum(dim=1, keepdim=True).sqrt()

    @property
    def gap(self) -> Float[Tensor, " b"]:
        """How much later than the nearest of them the target is."""
        nearest = self.time_from_target.abs().argmin(dim=1, keepdim=True)
        return -self.time_from_target.gather(1, nearest)[:, 0]

    @property
    def ways(self) -> Float[Tensor, "b s 3 d h w"]:
        """Where each voxel of the two frames was looked up in the observed ones, from its own place, in voxels.

        They were moved along the displacement field to the time of the target; zero without registration.
        """
        if self.displacement is None:
            return self.frames.new_zeros(*self.frames.shape[:2], 3, *self.frames.shape[-3:])
        between = torch.where(self.is_pair, self.time_from_target[:, 1] - self.time_from_target[:, 0], 1.0)
        field = between[:, None, None, None, None] * self.displacement
        share = self.weights[:, 1, None, None, None, None]
        return torch.stack([share * field, (share - 1.0) * field], dim=1)

    def of(self, targets: Sequence[int]) -> ReferenceFrames:
        """The frames of these targets, of which one may stand there more than once."""
        return self._each(lambda known: rows_of(known, targets))

    def rows(self, chosen: Int[Tensor, " n"]) -> ReferenceFrames:
        """The frames of the chosen targets."""
        return self._each(lambda known: known[chosen])

    def _each(self, change: Callable[[Tensor], Tensor]) -> ReferenceFrames:
        optional = self.displacement, self.blended, self.has_channel, self.channel_time, self.places
        return ReferenceFrames(
            change(self.frames),
            change(self.time_from_target),
            change(self.weights),
            *(None if known is None else change(known) for known in optional),
        )


def rows_of(known: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows, in this order. Nothing is copied where all are the same one: samples of one sequence share it."""
    if len(set(rows)) == 1:
        return known[rows[0] : rows[0] + 1].expand(len(rows), *known.shape[1:])
    return known[torch.tensor(rows, device=known.device)]


def reference_frames_at(
    frames: Float[Tensor, "b t c d h w"],
    times: Float[Tensor, "b t"],
    target_time: Float[Tensor, " b"],
    places: Int[Tensor, "b s"],
    weights: Float[Tensor, "b s"],
) -> ReferenceFrames:
    """The reference frames with the indices `places`."""
    rows = torch.arange(len(frames), device=frames.device)[:, None]
    time_from_target = times.gather(1, places) - target_time[:, None]
    return ReferenceFrames(frames[rows, places], time_from_target, weights, places=places)


def with_channels_filled(
    references: ReferenceFrames,
    places: Int[Tensor, "b s"],
    frames: Float[Tensor, "b t c d h w"],
    has_channel: Bool[Tensor, "b t c"],
    observed: Bool[Tensor, "b t"],
    times: Float[Tensor, "b t"],
    target_time: Float[Tensor, " b"],
) -> ReferenceFrames:
    """The reference frames `places`, where a channel that one lacks is that of the frame nearest to the target.

    So no absent channel is taken for an observed zero. A channel that no observed frame has is zero everywhere.
    """
    shown = observed[..., None] & has_channel
    gap = (times - target_time[:, None]).abs()[..., None]
    nearest = torch.where(shown, gap, torch.inf).argmin(dim=1)
    rows, channels = (torch.arange(size, device=frames.device) for size in (len(frames), frames.shape[2]))
    known = shown.any(dim=1)[..., None, None, None]
    volume = torch.where(known, frames[rows[:, None], nearest, channels], 0.0)
    own = shown[rows[:, None], places]
    filled = torch.where(own[..., None, None, None], references.frames, volume[:, None])
    elsewhere = (times.gather(1, nearest) - target_time[:, None])[:, None]
    is_filled = ~own & shown.any(dim=1)[:, None]
    channel_time = torch.where(is_filled, elsewhere, references.time_from_target[..., None])
    return replace(references, frames=filled, has_channel=own, channel_time=channel_time)


def nearest_observed(
    observed: Bool[Tensor, "b t"], times: Float[Tensor, "b t"], target_time: Float[Tensor, " b"]
) -> Int[Tensor, " b"]:
    """Index of the observed frame nearest in time to the target; of two equally near, the first."""
    gap = (times - target_time[:, None]).abs()
    return torch.where(observed, gap, torch.inf).argmin(dim=1)


def neighbours_observed(
    observed: Bool[Tensor, "b t"], times: Float[Tensor, "b t"], target_time: Float[Tensor, " b"]
) -> tuple[Int[Tensor, "b 2"], Float[Tensor, "b 2"]]:
    """The observed frames last before and first after the target, and their weights in linear interpolation.

    Where one side has none: the nearest frame and, of weight 0, a second one behind it, which shows the latest change
    (docs/experiments.md). That is the frame closest to the nearest one among those at least `FAR_ENOUGH` as far from it
    as the target is, since a short span says little about a long one; else the farthest. A single frame stands in both
    places.
    """
    time_from_target = times - target_time[:, None]
    is_before, is_after = observed & (time_from_target <= 0), observed & (time_from_target > 0)
    before = torch.where(is_before, time_from_target, -torch.inf).argmax(dim=1)
    after = torch.where(is_after, time_from_target, torch.inf).argmin(dim=1)
    has_before, has_after = is_before.any(dim=1), is_after.any(dim=1)
    nearest = nearest_observed(observed, times, target_time)
    second = _behind(observed, times, nearest, target_time)
    before = torch.where(has_before, before, second)
    after = torch.where(has_after, after, second)
    passed, left = (time_from_target.gather(1, place[:, None])[:, 0].abs() for place in (before, after))
    between = passed / (passed + left)
    share = torch.where(has_before & has_after, between, (~has_before).to(times.dtype))
    return torch.stack([before, after], dim=1), torch.stack([1.0 - share, share], dim=1)


def _behind(
    observed: Bool[Tensor, "b t"], times: Float[Tensor, "b t"], nearest: Int[Tensor, " b"], target_time: Tensor
) -> Int[Tensor, " b"]:
    """The second frame where all are on one side of the target; the nearest itself, if it is alone."""
    anchor = times.gather(1, nearest[:, None])
    away = torch.where(observed, (times - anchor).abs(), 0.0)
    is_enough = observed & (away >= FAR_ENOUGH * (target_time[:, None] - anchor).abs()) & (away > 0)
    closest = torch.where(is_enough, away, torch.inf).argmin(dim=1)
    farthest = torch.where(away.amax(dim=1) > 0, away.argmax(dim=1), nearest)
    return torch.where(is_enough.any(dim=1), closest, farthest)
