"""Frames that follow each other, drawn one after another: each is encoded, and known to those that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sadm_ray.config import SamplingSettings
from sadm_ray.diffusion.reference_frames import ReferenceFrames, rows_of
from sadm_ray.diffusion.samplers import SeededNoise
from sadm_ray.model.conditioner import Conditioner, Features
from sadm_ray.model.encoded_sequence import EncodedSequences, TargetContext
from sadm_ray.model.registration import RegisteredPairs
from sadm_ray.model.sample_parts import sample_parts
from sadm_ray.model.single_frame_conditioner import SingleFrameConditioner


class MovedFrames(NamedTuple):
    """How the reference frames were moved to a target of some samples.

    Attributes:
        samples: their places among all samples.
        sequences: the index of each one's sequence.
        targets: which target of its sequence each one's is.
        references: of each target.
        fields: displacement fields of these, in voxels (`displacement_field.warp`).
    """

    samples: range
    sequences: Sequence[int]
    targets: Sequence[int]
    references: ReferenceFrames
    fields: Float[Tensor, "b s 3 D H W"]


Draw = Callable[[TargetContext, SeededNoise, SamplingSettings], Tensor]
Follow = Callable[[MovedFrames], None]


class Rolls(Protocol):
    """What a model needs for that (`base_model.SequenceModel`)."""

    conditioner: Conditioner | SingleFrameConditioner

    def estimate(self, context: TargetContext, noise: SeededNoise, sampling: SamplingSettings) -> Tensor: ...

    def references_at(
        self, encoded: EncodedSequences, target_time: Float[Tensor, " b"], pairs: RegisteredPairs | None = None
    ) -> ReferenceFrames: ...

    def context_at(
        self,
        encoded: EncodedSequences,
        target_time: Float[Tensor, " b"],
        references: ReferenceFrames | None = None,
        target_covariates: Float[Tensor, "b v"] | None = None,
    ) -> TargetContext: ...

    def moved_fields(
        self, context: TargetContext, noise: SeededNoise | None, sampling: SamplingSettings
    ) -> Float[Tensor, "b s 3 D H W"] | None: ...


def rolled_out(
    model: Rolls,
    encoded: EncodedSequences,
    target_times: Float[Tensor, "b m"],
    orders: Int[Tensor, "b m"],
    seeds: Sequence[int],
    sampling: SamplingSettings,
    draw: Draw,
    follow: Follow | None = None,
) -> Float[Tensor, "bs m c D H W"]:
    """The targets of each sequence, in the order of `orders`.

    Args:
        draw: the model's `draw` or `estimate`.
        follow: is told how the reference frames were moved, of a model that moves them.
    """
    sequences, targets = target_times.shape
    volume, (low, high), channels = encoded.frames.shape[2:], encoded.limits, encoded.known_channels
    generated = encoded.frames.new_empty(len(seeds), targets, *volume)
    parts = sample_parts(seeds, sequences, volume, target_times.device, sampling.temperature)
    pairs = RegisteredPairs()
    for turn in range(targets):
        places = orders[:, turn]
        time = target_times.gather(1, places[:, None].to(target_times.device))[:, 0]
        # Scans only: errors of generated frames would propagate. Measured 0.14 dB better between two scans.
        references = model.references_at(encoded, time, pairs)
        planned = (
            None if encoded.target_covariates is None else encoded.target_covariates[torch.arange(sequences), places]
        )
        # All samples are the same yet.
        shared = model.context_at(encoded, time, references, planned) if turn == 0 else None
        for part in parts:
            its = part.sequences
            covariates = None if planned is None else rows_of(planned, its)
            if shared is not None:
                context = shared.of(its)
            else:
                known_frames = part.known(encoded)
                context = model.context_at(known_frames, rows_of(time, its), references.of(its), covariates)
            frame = draw(context, part.noise, sampling).clamp(rows_of(low, its), rows_of(high, its))
            if follow is not None:
                noise = None if draw == model.estimate else part.noise
                fields = model.moved_fields(context, noise, sampling)
                if fields is not None:
                    samples = range(*part.rows.indices(len(seeds)))
                    follow(MovedFrames(samples, its, places[its].tolist(), context.references, fields))
            if turn + 1 < targets:
                known = None if channels is None else rows_of(channels, its)
                part.generated.append((_encoded(model.conditioner, frame, known), rows_of(time, its), covariates))
            generated[part.rows][torch.arange(len(frame)), places[its]] = frame
    return generated


def _encoded(
    conditioner: Conditioner | SingleFrameConditioner,
    frame: Float[Tensor, "b c D H W"],
    known_channels: Bool[Tensor, "b c"] | None,
) -> Features:
    """The features of a generated frame, which has the channels of which something was observed."""
    alone = frame.new_ones(len(frame), 1, dtype=torch.bool)
    if known_channels is None:
        return conditioner.encode(frame[:, None], alone)
    frame = torch.where(known_channels[..., None, None, None], frame, 0.0)
    return conditioner.encode(frame[:, None], alone, known_channels[:, None])
