"""The condition's channels: what each of them holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.model.displacement_field import VELOCITY
from sadm_ray.model.layers import PatchSize, depth_to_space, space_to_depth
from sadm_ray.model.resizing import resized


def presence_planes(channels: int) -> int:
    """How many planes tell a network which channels a frame has: none of one channel, which every frame has."""
    return channels if channels > 1 else 0


@dataclass(frozen=True)
class ConditionChannels:
    """Decoded channels; time and weight of each reference frame; their displacement field; the frames' voxels.

    Of volumes with several channels, planes before the voxels say which channels each reference frame has itself, and
    the time of the scan that each is from.

    The null condition is all zeros: frames of intensity ½ without weight.

    Attributes:
        decoded: channels of the spatial decoder's output.
        references: how many reference frames there are; 0: the condition holds nothing of them.
        channels: of a volume.
        patch: of the stem, on whose grid the condition lies (d h w).
    """

    decoded: int
    references: int
    channels: int
    patch: PatchSize

    @property
    def width(self) -> int:
        """How many channels the condition has."""
        return (
            self.decoded
            + 2 * self.references
            + self.displacement_channels
            + self.presence_channels
            + self.references * self.channels * math.prod(self.patch)
        )

    @property
    def displacement_channels(self) -> int:
        """How many channels hold the displacement field from the first reference frame to the second."""
        return 3 if self.references > 1 else 0

    @property
    def presence_channels(self) -> int:
        """How many channels say which channels the reference frames have, and the times of all of them."""
        return 2 * self.references * presence_planes(self.channels)

    def pack(
        self, decoded: Float[Tensor, "b k e f g"], references: ReferenceFrames, time_scale: float
    ) -> Float[Tensor, "b n e f g"]:
        """The condition; `decoded` may lie on a coarser grid."""
        if not self.references:
            return decoded
        voxels = space_to_depth(2.0 * references.frames.flatten(1, 2) - 1.0, self.patch)
        decoded = resized(decoded, voxels.shape[-3:])
        clock = torch.cat([references.time_from_target / time_scale, references.weights], dim=1)[..., None, None, None]
        grid = voxels.shape[-3:]
        known = [clock.expand(-1, -1, *grid), voxels]
        if self.displacement_channels:
            displacement = voxels.new_zeros(len(voxels), self.displacement_channels, *grid)
            if references.displacement is not None:
                displacement = F.avg_pool3d(references.displacement, self.patch) * (time_scale / VELOCITY)
            known.insert(1, displacement)
        if references.has_channel is not None and references.channel_time is not None:
            told = references.has_channel.to(voxels.dtype), references.channel_time / time_scale
            planes = torch.cat([each.flatten(1) for each in told], dim=1)[..., None, None, None]
            known.insert(-1, planes.expand(-1, -1, *grid))
        return torch.cat([decoded, *(each.to(decoded.dtype) for each in known)], dim=1)

    def time_from_target_of(self, condition: Float[Tensor, "b n e f g"]) -> Float[Tensor, "b s"]:
        """How much later than the target the reference's frames were acquired, in units of the time scale."""
        return condition[:, self.decoded : self.decoded + self.references, 0, 0, 0].float()

    def channel_time_of(self, condition: Float[Tensor, "b n e f g"]) -> Float[Tensor, "b s c"]:
        """As `time_from_target_of`, of the scan that each channel of a reference's frame is from."""
        if not self.presence_channels:
            return self.time_from_target_of(condition)[..., None]
        last = self.decoded + 2 * self.references + self.displacement_channels + self.presence_channels
        times = condition[:, last - self.presence_channels // 2 : last, 0, 0, 0].float()
        return times.unflatten(1, (self.references, self.channels))

    def weights_of(self, condition: Float[Tensor, "b n e f g"]) -> Float[Tensor, "b s"]:
        """The weights of the reference's frames."""
        first = self.decoded + self.references
        return condition[:, first : first + self.references, 0, 0, 0].float()

    def reference_of(self, condition: Float[Tensor, "b n e f g"]) -> Float[Tensor, "b c d h w"]:
        """The reference, in [0, 1]; black for the null condition."""
        return torch.einsum("bs,bscdhw->bcdhw", self.weights_of(condition), self.frames_of(condition))

    def displacement_of(self, condition: Float[Tensor, "b n e f g"]) -> Float[Tensor, "b 3 d h w"] | None:
        """The displacement field from the first frame to the second, in voxels per unit of the time scale.

        It was computed, not learned: nothing is differentiated through it.
        """
        if not self.displacement_channels:
            return None
        first = self.decoded + 2 * self.references
        displacement = VELOCITY * condition[:, first : first + self.displacement_channels].detach().float()
        size = [sites * voxels for sites, voxels in zip(displacement.shape[-3:], self.patch, strict=True)]
        return resized(displacement, size)

    def frames_of(self, condition: Float[Tensor, "b n e f g"]) -> Float[Tensor, "b s c d h w"]:
        """The reference's frames, in [0, 1]."""
        first = self.decoded + 2 * self.references + self.displacement_channels + self.presence_channels
        voxels = depth_to_space(condition[:, first:].float(), self.patch)
        return 0.5 * (voxels.unflatten(1, (self.references, self.channels)) + 1.0)
