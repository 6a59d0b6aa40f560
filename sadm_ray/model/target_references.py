"""The reference frames of each target: chosen, warped to its time and blended."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sadm_ray.diffusion.reference_frames import (
    ReferenceFrames,
    nearest_observed,
    neighbours_observed,
    reference_frames_at,
    with_channels_filled,
)
from sadm_ray.model.encoded_sequence import EncodedSequences
from sadm_ray.model.frame_blending import FrameBlending
from sadm_ray.model.registration import RegisteredPairs, aligned
from sadm_ray.model.time_warp import TimeWarp


def references_of(
    encoded: EncodedSequences,
    target_time: Float[Tensor, " b"],
    count: int,
    time_warp: TimeWarp | None = None,
    frame_blending: FrameBlending | None = None,
    pairs: RegisteredPairs | None = None,
) -> ReferenceFrames:
    """The reference frames of each target.

    Args:
        count: 1: the nearest observed frame; 2: those before and after the target.
        time_warp: of two frames that are registered and warped to the target's time; none: they stay as they are.
        frame_blending: predicts the target from these two; none: no such prediction.
        pairs: the displacement fields of these sequences' pairs that are known already; it learns the new ones.
    """
    known = encoded.observed, encoded.times, target_time
    if count == 2:
        places, weights = neighbours_observed(*known)
    else:
        places, weights = nearest_observed(*known)[:, None], torch.ones_like(target_time)[:, None]
    still = reference_frames_at(encoded.frames, encoded.times, target_time, places, weights)
    if encoded.has_channel is not None:
        still = with_channels_filled(still, places, encoded.frames, encoded.has_channel, *known)
    if time_warp is None:
        return still
    moved = aligned(still, (pairs or RegisteredPairs()).field_of(still, places), target_time, time_warp)
    return moved if frame_blending is None else replace(moved, blended=frame_blending(still, moved))
