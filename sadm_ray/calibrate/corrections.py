"""Corrections of a model's estimate and of its samples, from targets of subjects that it was not trained on.

The estimate's change is multiplied by the factor that makes its squared error least. Then the motions and intensities
in which samples differ are multiplied so that they vary as the estimate errs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sadm_ray.data.load.collate import collate
from sadm_ray.data.load.rng import SampleRng
from sadm_ray.data.load.target_sampling import draw_target, take
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.encoded_sequence import TargetContext
from sadm_ray.model.prior import Prior, prior_of
from sadm_ray.model.prior_samples import SCALES, block_means
from sadm_ray.model.recalibration import Correction, Recalibration

KINDS = ("beyond", "between")
"""Targets beyond a subject's scans, and between two of them."""
FACTORS = tuple(2 ** (step / 3) for step in range(-5, 6))
"""Those of motions that are tried: 0.31 to 3.2."""
FINER = tuple(2 ** (step / 12) for step in range(-24, 25))
"""Those of intensities: 0.25 to 4."""
SMALLEST, LARGEST = 0.25, 4.0
"""Bounds of the factor of the change."""
IMPUTATION, SINGLE = 0.5, 0.3
"""How often later frames are observed too, and how often only the first (`draw_target`)."""


@dataclass(frozen=True)
class HeldOutTarget:
    """A target of a held-out subject: what there is to predict it from, and the truth."""

    context: TargetContext
    x: Float[Tensor, "1 c d h w"]
    counted: Bool[Tensor, "1 c"] | None


def held_out_targets(model: SequenceModel, row: Mapping[str, Any], draws: int, seed: int) -> Iterable[HeldOutTarget]:
    """Targets of a subject, drawn as in training, always the same.

    Args:
        row: the subject (`subject_row.parse_row`), with two scans at least.
    """
    sequences = collate([row], model.config.model.covariates)
    device = next(model.parameters()).device
    frames, present, times = (
        torch.from_numpy(each).to(device) for each in (sequences.frames, sequences.present, sequences.times)
    )
    covariates, visits, has_channel, planned = (
        None if each is None else torch.from_numpy(each).to(device)
        for each in (sequences.covariates, sequences.visit_covariates, sequences.has_channel, sequences.planned)
    )
    for draw in range(draws):
        drawn = draw_target(present, SampleRng(seed, draw, [0], 1), IMPUTATION, SINGLE)
        encoded = model.observe(frames, drawn.observed, times, covariates, visits, has_channel=has_channel)
        its = None if planned is None else take(planned, drawn.target)
        context = model.context_at(encoded, take(times, drawn.target).float(), target_covariates=its)
        counted = encoded.known_channels
        if counted is not None and has_channel is not None:
            counted = counted & take(has_channel, drawn.target)
        target = model.padded(take(frames, drawn.target))
        yield HeldOutTarget(context, model.target.encode(target, context.reference), counted)


@torch.no_grad()
def change_sums(model: SequenceModel, row: Mapping[str, Any], draws: int, seed: int) -> dict[str, list[float]]:
    """By kind Σ x·m and Σ m², m the prior's mean, as parts of Σ x² of each target, and the number of targets."""
    sums = {kind: [0.0, 0.0, 0.0] for kind in KINDS}
    for target in held_out_targets(model, row, draws, seed):
        mean, x = _counted(_prior(model, target).mean, target), _counted(target.x, target)
        total = float(x.square().sum())
        if total > 0:
            found = float((x * mean).sum()) / total, float(mean.square().sum()) / total, 1.0
            sums[_kind(target)] = [old + new for old, new in zip(sums[_kind(target)], found, strict=True)]
    return sums


def with_change(sums: Sequence[Mapping[str, Sequence[float]]]) -> Recalibration:
    """The factors of the change that fit the sums of all subjects best; 1 where nothing was seen."""
    factors: dict[str, Any] = {}
    for kind in KINDS:
        product, square, targets = np.sum([each[kind] for each in sums], axis=0)
        factor = product / square if targets and square > 0 else 1.0
        factors[kind] = Correction(change=float(np.clip(factor, SMALLEST, LARGEST)))
    return Recalibration(**factors, subjects=len(sums))


@torch.no_grad()
def spread_sums(
    model: SequenceModel, row: Mapping[str, Any], recalibration: Recalibration, draws: int, seed: int
) -> dict[str, list[list[float]]]:
    """By kind, in blocks of each of `SCALES`, as parts of the mean x² of each target and summed over targets:

    the squared error of the estimate; the variance of samples by their intensities; that by their motions, for each of
    `FACTORS` in turn.
    """
    sums = {kind: np.zeros((2 + len(FACTORS), len(SCALES))) for kind in KINDS}
    for number, target in enumerate(held_out_targets(model, row, draws, seed)):
        prior = _prior(model, target)
        total = float(_counted(target.x, target).square().mean())
        if prior.spread is None or not total > 0:
            continue
        change = getattr(recalibration, _kind(target)).change
        rng, size = SampleRng(seed, number, [0], 1), model.noise_size(row["frames"].shape[-3:])
        (numbers, white), (others, other) = prior.spread.noises(rng.normal("calibration", size))
        fields = [prior.spread.displacement(each) for each in (numbers, others)]
        parts = [
            target.x - change * prior.mean,
            _half_difference(prior.spread.noise(white), prior.spread.noise(other)),
        ]
        for factor in FACTORS:
            moved = [prior.spread.moved(factor * field) for field in fields]
            parts.append(_half_difference(*moved))
        for place, part in enumerate(parts):
            blocks = [_counted(block_means(part, scale), target) for scale in SCALES]
            sums[_kind(target)][place] += [float(each.square().mean()) / total for each in blocks]
    return {kind: each.tolist() for kind, each in sums.items()}


def with_spread(recalibration: Recalibration, sums: Sequence[Mapping[str, Sequence[Sequence[float]]]]) -> Recalibration:
    """With the factors of motions and intensities for which samples vary as the estimate errs; 1 of a kind not seen.

    In the blocks of all `SCALES` together, by the least squares of the logarithms: voxel by voxel tells how much the
    samples vary, the larger blocks how much of it they do as wholes.
    """
    factors = {}
    for kind in KINDS:
        errors, intensities, *motions = np.sum([each[kind] for each in sums], axis=0)
        correction: Correction = getattr(recalibration, kind)
        if errors.all() and intensities.all():
            apart = {
                (motion, intensity): float(np.square(np.log((varied + intensity**2 * intensities) / errors)).sum())
                for motion, varied in zip(FACTORS, motions, strict=True)
                for intensity in FINER
            }
            motion, intensity = min(apart, key=apart.__getitem__)
            correction = correction.model_copy(update={"motion": motion, "intensity": intensity})
        factors[kind] = correction
    return recalibration.model_copy(update=factors)


def _half_difference(one: Tensor, other: Tensor) -> Tensor:
    """Its square is the variance, on average."""
    return (one - other) / math.sqrt(2.0)


def _prior(model: SequenceModel, target: HeldOutTarget) -> Prior:
    if model.prior_network is None:
        raise ValueError("a model without a prior has no corrections")
    return prior_of(model.prior_network, target.context, model.target)


def _kind(target: HeldOutTarget) -> str:
    return KINDS[int(target.context.references.is_between)]


def _counted(volume: Float[Tensor, "1 c d h w"], target: HeldOutTarget) -> Tensor:
    return volume if target.counted is None else volume[target.counted]
