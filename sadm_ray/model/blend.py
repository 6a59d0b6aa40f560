"""A second opinion between two frames: how these, moved along the path between them, are blended voxel by voxel.

The U-Net of the guess sees all of the condition, patch by patch; this sees a voxel and what lies near it and nothing
else, so that a few thousand weights are taught by every voxel of every subject. The two err in different ways: their
mean is better than either (docs/findings.md).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sadm_ray.diffusion.target import Sides
from sadm_ray.model.layers import zeroed
from sadm_ray.model.nearby import axes_within_slices, mean_near

WIDTH = 24
BLURRED, AROUND = 1, 2
"""Blurring, and the neighbourhood whose change counts, reach so many voxels to each side, within a slice."""
INTENSITY, CONTRAST, DETAIL, DISTANCE = 3.0, 5.0, 10.0, 3.0
"""What the network sees is of order one: intensities, differences of two, those to a neighbourhood; and voxels."""
WAYS, ADDED = 4, 0.1
"""What it says: how much of the one frame for the other, of the frames unmoved, of what is blurred; and intensity."""


class Blend(nn.Module):
    """Two frames, where they are and where they have moved to → what is between them; at first their reference."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(8 * channels + 3, WIDTH), nn.SiLU(), _convolution(WIDTH, WIDTH), nn.SiLU(),
            _convolution(WIDTH, WIDTH), nn.SiLU(), zeroed(nn.Conv3d(WIDTH, WAYS * channels, 1)),
        )  # fmt: skip

    def forward(self, still: Sides, moved: Sides) -> Float[Tensor, "b c d h w"]:
        """The volumes in units of intensity; the reference itself where the target is not between the two frames.

        Args:
            still: the frames of the reference as they were acquired.
            moved: the same along the path to the target's time (`sadm_ray.model.registration.aligned`).
        """
        reference = moved.reference
        (rows,) = torch.nonzero(moved.is_between, as_tuple=True)
        return reference.index_add(0, rows, self._change(still.rows(rows), moved.rows(rows)).to(reference.dtype))

    def _change(self, still: Sides, moved: Sides) -> Float[Tensor, "b c d h w"]:
        """What is added to the reference."""
        reference = moved.reference
        axes = axes_within_slices(reference.shape[-3:])
        share = moved.weights[:, 1, None, None, None, None]
        middle = 4.0 * share * (1.0 - share)
        unmoved = (1.0 - share) * still.frames[:, 0] + share * still.frames[:, 1]
        apart, apart_unmoved = (each.frames[:, 1] - each.frames[:, 0] for each in (moved, still))
        blurred = mean_near(reference, BLURRED, axes)
        everywhere = torch.ones_like(moved.distance)
        seen = [
            INTENSITY * reference - 1.0, INTENSITY * unmoved - 1.0, DETAIL * (blurred - reference),
            CONTRAST * apart, CONTRAST * apart_unmoved, CONTRAST * (unmoved - reference),
            CONTRAST * apart.abs(), CONTRAST * mean_near(apart.abs(), AROUND, axes),
            (2.0 * share - 1.0) * everywhere, middle * everywhere, moved.distance / DISTANCE,
        ]  # fmt: skip
        later, back, softer, more = self.layers(torch.cat(seen, dim=1)).float().chunk(WAYS, dim=1)
        return later * apart + back * (unmoved - reference) + softer * (blurred - reference) + ADDED * middle * more


def _convolution(inputs: int, outputs: int) -> nn.Conv3d:
    """3×3×3, every voxel stays where it is; outside stands the nearest voxel, since there is no border to be seen."""
    return nn.Conv3d(inputs, outputs, 3, padding=1, padding_mode="replicate")
