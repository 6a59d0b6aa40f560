"""Frame blending: a second prediction between two frames, which mixes these voxel by voxel after warping.

The prior network sees all of the condition, patch by patch. This network sees a voxel and its neighbourhood only, so
that every voxel of every subject trains its 38,000 weights. The errors of the two differ, and their mean is better than
either (docs/experiments.md).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.model.finite_differences import axes_within_slices, local_mean
from sadm_ray.model.layers import zeroed
from sadm_ray.model.memory_bounds import by_slabs

WIDTH = 24
BLURRED, AROUND = 1, 2
"""Blurring, and the neighbourhood whose change counts, reach so many voxels to each side, within a slice."""
INTENSITY, CONTRAST, DETAIL, DISTANCE = 3.0, 5.0, 10.0, 3.0
"""Factors that bring the inputs to order one: intensities, differences of frames, those to a neighbourhood, voxels."""
REACH = 3
"""How many voxels to each side the layers see: three convolutions of 3×3×3."""
OUTPUTS, ADDED = 4, 0.1
"""Outputs: weights of the later frame, of the frames before warping and of the blurred mean; and added intensity."""


class FrameBlending(nn.Module):
    """Two frames, before and after warping → the volume between them; untrained, the reference."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(8 * channels + 3, WIDTH), nn.SiLU(), _convolution(WIDTH, WIDTH), nn.SiLU(),
            _convolution(WIDTH, WIDTH), nn.SiLU(), zeroed(nn.Conv3d(WIDTH, OUTPUTS * channels, 1)),
        )  # fmt: skip

    def forward(self, still: ReferenceFrames, moved: ReferenceFrames) -> Float[Tensor, "b c d h w"]:
        """The volumes in units of intensity; the reference itself where the target is not between the two frames.

        Args:
            still: the frames of the reference as they were acquired.
            moved: the same, warped to the target's time (`sadm_ray.model.registration.aligned`).
        """
        reference = moved.reference
        (rows,) = torch.nonzero(moved.is_between, as_tuple=True)
        return reference.index_add(0, rows, self._change(still.rows(rows), moved.rows(rows)).to(reference.dtype))

    def _change(self, still: ReferenceFrames, moved: ReferenceFrames) -> Float[Tensor, "b c d h w"]:
        """What is added to the reference."""
        reference = moved.reference
        axes = axes_within_slices(reference.shape[-3:])
        share = moved.weights[:, 1, None, None, None, None]
        middle = 4.0 * share * (1.0 - share)
        unmoved = (1.0 - share) * still.frames[:, 0] + share * still.frames[:, 1]
        apart, apart_unmoved = (each.frames[:, 1] - each.frames[:, 0] for each in (moved, still))
        blurred, around = local_mean(reference, BLURRED, axes), local_mean(apart.abs(), AROUND, axes)

        def blend(
            reference: Tensor, unmoved: Tensor, apart: Tensor, apart_unmoved: Tensor, blurred: Tensor, around: Tensor,
            distance: Tensor,
        ) -> Tensor:  # fmt: skip
            everywhere = torch.ones_like(distance)
            seen = [
                INTENSITY * reference - 1.0, INTENSITY * unmoved - 1.0, DETAIL * (blurred - reference),
                CONTRAST * apart, CONTRAST * apart_unmoved, CONTRAST * (unmoved - reference),
                CONTRAST * apart.abs(), CONTRAST * around,
                (2.0 * share - 1.0) * everywhere, middle * everywhere, distance / DISTANCE,
            ]  # fmt: skip
            features = torch.cat(seen, dim=1).contiguous(memory_format=torch.channels_last_3d)  # half of the time
            later, back, softer, more = self.layers(features).float().chunk(OUTPUTS, dim=1)
            return later * apart + back * (unmoved - reference) + softer * (blurred - reference) + ADDED * middle * more

        return by_slabs(blend, reference, unmoved, apart, apart_unmoved, blurred, around, moved.distance, reach=REACH)


def _convolution(inputs: int, outputs: int) -> nn.Conv3d:
    """3×3×3 at the same size; the border voxel is repeated outside, so that there is no edge."""
    return nn.Conv3d(inputs, outputs, 3, padding=1, padding_mode="replicate")
