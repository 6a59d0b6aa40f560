"""Draw samples for queries: from rows of a shard to the model and back. No Ray here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from sadm_ray.config import CovariateSettings, Precision, SamplingSettings
from sadm_ray.data.load.collate import collate, visit_values
from sadm_ray.generate.request import Query
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.encoded_sequence import EncodedSequences
from sadm_ray.model.sequence_rollout import Follow


def observe(
    model: SequenceModel,
    rows: Sequence[Mapping[str, Any]],
    queries: Sequence[Query],
    precision: Precision = "float32",
) -> EncodedSequences:
    """Encode the observed scans of subjects; serves any number of draws of these queries, with any sampling settings.

    Args:
        rows: subjects (`sadm_ray.data.shards.subject_row.parse_row`), of any number of slots.
        queries: one a subject: which of its scans are observed, and under which covariates the targets are; all with
            the same number of targets.
    """
    device = next(model.parameters()).device
    sequences = collate(rows, model.config.model.covariates)
    observed = np.zeros_like(sequences.present)
    for mask, query in zip(observed, queries, strict=True):
        mask[: len(query.observed)] = query.observed
    frames, seen, times = (
        torch.from_numpy(array).to(device) for array in (sequences.frames, observed, sequences.times)
    )
    covariates, visits = (
        None if array is None else torch.from_numpy(array).to(device)
        for array in (sequences.covariates, sequences.visit_covariates)
    )
    has_channel = None if sequences.has_channel is None else torch.from_numpy(sequences.has_channel).to(device)
    encoded = model.observe(frames, seen, times, covariates, visits, precision, has_channel)
    return replace(encoded, target_covariates=_of_targets(rows, queries, model.config.model.covariates, device))


def _of_targets(
    rows: Sequence[Mapping[str, Any]],
    queries: Sequence[Query],
    covariates: Sequence[CovariateSettings],
    device: torch.device,
) -> Float[Tensor, "b m v"] | None:
    """The planned covariates of the targets of each query; None of a model without."""
    if not any(each.planned for each in covariates):
        return None
    of_visits = [each for each in covariates if each.of == "visit"]
    values = [
        [visit_values(planned, of_visits) for planned in query.planned(row, of_visits)]
        for row, query in zip(rows, queries, strict=True)
    ]
    return torch.tensor(values, device=device)


def estimate(
    model: SequenceModel,
    encoded: EncodedSequences,
    queries: Sequence[Query],
    sampling: SamplingSettings,
    follow: Follow | None = None,
) -> Float[np.ndarray, "b m c d h w"]:
    """The best point predictions of the target frames of queries; arguments as in `draw`."""
    return model.roll_out(encoded, _target_times(encoded, queries), None, sampling, follow).cpu().numpy()


def draw(
    model: SequenceModel,
    encoded: EncodedSequences,
    queries: Sequence[Query],
    seeds: Sequence[Sequence[int]],
    sampling: SamplingSettings,
    follow: Follow | None = None,
) -> Float[np.ndarray, "b m s c d h w"]:
    """Draw samples of the target frames of queries.

    Args:
        encoded: what `observe` returned for the same queries.
        queries: all with the same number of targets.
        seeds: of each query one a sample, the same number for all.
        follow: is told how the frames were moved (`SequenceModel.roll_out`).

    Returns:
        the samples of each query's target frames, in [0, 1].
    """
    flat = [seed for each in seeds for seed in each]
    volumes = model.roll_out(encoded, _target_times(encoded, queries), flat, sampling, follow)
    return rearrange(volumes, "(b s) m c d h w -> b m s c d h w", b=len(queries)).cpu().numpy()


def _target_times(encoded: EncodedSequences, queries: Sequence[Query]) -> Float[Tensor, "b m"]:
    times = np.stack([query.target_times for query in queries])
    return torch.from_numpy(times.astype(np.float32)).to(encoded.frames.device)
