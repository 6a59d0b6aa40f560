"""Corrections of a model's estimate and of its samples, from targets of subjects that it was not trained on.

The estimate's change is multiplied by the factor that makes its error least, in dB. Then the motions and intensities
in which samples differ are multiplied, and noise is added where the prior is uncertain, so that samples vary as the
estimate errs in the subject's changed region: what keeps still is certain, and would hide what moves.
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
from sadm_ray.evaluate.metrics import CHANGE_THRESHOLD
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.encoded_sequence import TargetContext
from sadm_ray.model.prior import Prior, prior_of
from sadm_ray.model.prior_samples import SCALES, added_noise, block_means
from sadm_ray.model.recalibration import KINDS, Correction, Recalibration

FACTORS = tuple(2 ** (step / 3) for step in range(-5, 2))
"""Those of motions that are tried: 0.31 to 1.26. Larger ones made CRPS worse (docs/experiments)."""
FINER = tuple(2 ** (step / 12) for step in range(-24, 25))
"""Those of intensities: 0.25 to 4."""
SHARES = (0.0, *(2 ** (step / 4) for step in range(-16, 5)))
"""Parts of the prior's deviation that added noise has: none, or 0.06 to 2."""
_LEAST = 1e-9  # of an error: products may be below 0 by chance
CHANGES = tuple(2 ** (step / 24) for step in range(-48, 49))
"""Those of the change: 0.25 to 4."""
IMPUTATION, SINGLE = 0.5, 0.3
"""How often later frames are observed too, and how often only the first (`draw_target`)."""


@dataclass(frozen=True)
class HeldOutTarget:
    """A target of a held-out subject: what there is to predict it from, and the truth."""

    context: TargetContext
    x: Float[Tensor, "1 c d h w"]
    counted: Bool[Tensor, "1 c"] | None
    changed: Float[Tensor, "1 c d h w"]
    """1 in the subject's changed region, of channels that count; else 0."""

    def mean_product(self, one: Float[Tensor, "1 c d h w"], other: Float[Tensor, "1 c d h w"], scale: int) -> float:
        """Of means of blocks with this edge, each with the part of it that lies in the changed region as its weight."""
        weights = block_means(self.changed, scale)
        product = weights * block_means(one, scale) * block_means(other, scale)
        return float(product.sum() / weights.sum().clamp(min=1e-12))


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
    region = model.padded(_changed(frames[0], present[0], None if has_channel is None else has_channel[0]))[None]
    for draw in range(draws):
        drawn = draw_target(present, SampleRng(seed, draw, [0], 1), IMPUTATION, SINGLE)
        encoded = model.observe(frames, drawn.observed, times, covariates, visits, has_channel=has_channel)
        its = None if planned is None else take(planned, drawn.target)
        context = model.context_at(encoded, take(times, drawn.target).float(), target_covariates=its)
        counted = encoded.known_channels
        if counted is not None and has_channel is not None:
            counted = counted & take(has_channel, drawn.target)
        x = model.target.encode(model.padded(take(frames, drawn.target)), context.reference)
        yield HeldOutTarget(context, x, counted, region if counted is None else region * counted[..., None, None, None])


@torch.no_grad()
def change_sums(model: SequenceModel, row: Mapping[str, Any], draws: int, seed: int) -> dict[str, list[float]]:
    """By kind Σ x·m and Σ m², m the prior's mean, as parts of the subject's Σ x², and the number of its targets.

    Of a subject's targets those count most that change most.
    """
    sums = {kind: np.zeros(4) for kind in KINDS}
    for target in held_out_targets(model, row, draws, seed):
        mean, x = _counted(_prior(model, target).mean, target), _counted(target.x, target)
        sums[_kind(target)] += [float(each.sum()) for each in (x * mean, mean.square(), x.square())] + [1.0]
    return {
        kind: [product / total if total else 0.0, square / total if total else 0.0, targets]
        for kind, (product, square, total, targets) in sums.items()
    }


def with_change(sums: Sequence[Mapping[str, Sequence[float]]]) -> Recalibration:
    """The factors of the change for which the error of the estimate is least; 1 where nothing was seen.

    The least mean over subjects of its logarithm, as in PSNR: in squares the few who hardly change would decide, whose
    relative errors are large.
    """
    factors: dict[str, Any] = {}
    for kind in KINDS:
        seen = np.array([each[kind][:2] for each in sums if each[kind][2]]).reshape(-1, 2)
        product, square = seen[:, 0], seen[:, 1]
        tried = np.array(CHANGES)[:, None]
        errors = 1.0 - 2.0 * tried * product + tried**2 * square
        best = np.log(errors.clip(_LEAST)).sum(axis=1).argmin()
        factors[kind] = Correction(change=CHANGES[best] if square.any() else 1.0)
    return Recalibration(**factors, subjects=len(sums))


@torch.no_grad()
def spread_sums(model: SequenceModel, row: Mapping[str, Any], draws: int, seed: int) -> dict[str, list[list[float]]]:
    """By kind, in blocks of each of `SCALES`, summed over targets:

    the variance of samples by their intensities, and by noise of the prior's own deviation; that by their motions, for
    each of `FACTORS` in turn; and for each of these the squared error of the mean of many samples, which is on average
    the product of the errors of two. All in the changed region.
    """
    sums = {kind: np.zeros((2 + 2 * len(FACTORS), len(SCALES))) for kind in KINDS}
    for number, target in enumerate(held_out_targets(model, row, draws, seed)):
        prior = _prior(model, target)
        spread, deviation = prior.spread, prior.deviation
        if spread is None:
            continue
        rng, size = SampleRng(seed, number, [0], 1), model.noise_size(row["frames"].shape[-3:])
        numbers, white = zip(*spread.noises(rng.normal("calibration", size)), strict=True)
        fields = [spread.displacement(each) for each in numbers]
        moved = [[spread.moved(factor * field) for field in fields] for factor in FACTORS]
        apart = [
            _half_difference(*(spread.noise(each) for each in white)),
            _half_difference(*(deviation * added_noise(each) for each in white)),  # by itself: the same noise will do
            *(_half_difference(*pair) for pair in moved),
        ]
        pairs = [(each, each) for each in apart] + [(target.x - one, target.x - other) for one, other in moved]
        for place, pair in enumerate(pairs):
            sums[_kind(target)][place] += [target.mean_product(*pair, scale) for scale in SCALES]
    return {kind: each.tolist() for kind, each in sums.items()}


def with_spread(recalibration: Recalibration, sums: Sequence[Mapping[str, Sequence[Sequence[float]]]]) -> Recalibration:
    """With the corrections of motions, intensities and added noise for which samples vary as their mean errs.

    By the least log variance + squared error / variance (Dawid & Sebastiani, Coherent dispersion criteria for optimal
    experimental design, 1999) in the blocks of all `SCALES` together: voxel by voxel tells how much the samples vary,
    the larger blocks how much of it they do as wholes. A kind of target that was not seen is left alone.
    """
    factors = {}
    for kind in KINDS:
        intensities, noise, *others = np.sum([each[kind] for each in sums], axis=0)
        motions, errors = np.split(np.array(others)[:, None, None], 2)
        correction: Correction = getattr(recalibration, kind)
        if intensities.all():
            shares, finer = np.square(SHARES)[:, None, None], np.square(FINER)[:, None]
            varied = motions + shares * noise + finer * intensities
            score = (np.log(varied) + errors / varied).sum(axis=-1)
            motion, share, intensity = np.unravel_index(score.argmin(), score.shape)
            correction = correction.model_copy(
                update={"motion": FACTORS[motion], "noise": SHARES[share], "intensity": FINER[intensity]}
            )
        factors[kind] = correction
    return recalibration.model_copy(update=factors)


def _changed(
    frames: Float[Tensor, "t c d h w"], present: Bool[Tensor, " t"], has_channel: Bool[Tensor, "t c"] | None
) -> Float[Tensor, "c d h w"]:
    """1 where the intensity ranges over more than `CHANGE_THRESHOLD` across the scans that show the channel."""
    seen = present[:, None] if has_channel is None else present[:, None] & has_channel
    seen = seen[..., None, None, None]
    span = frames.where(seen, -torch.inf).amax(dim=0) - frames.where(seen, torch.inf).amin(dim=0)
    return (span > CHANGE_THRESHOLD).float()


def _half_difference(one: Tensor, other: Tensor) -> Tensor:
    """Its square is the variance, on average."""
    return (one - other) / math.sqrt(2.0)


def _prior(model: SequenceModel, target: HeldOutTarget) -> Prior:
    if model.prior_network is None:
        raise ValueError("a model without a prior has no corrections")
    return prior_of(model.prior_network, target.context, model.target)


def _kind(target: HeldOutTarget) -> str:
    references = target.context.references
    if not references.is_pair:
        return "single"
    return "between" if references.is_between else "beyond"


def _counted(volume: Float[Tensor, "1 c d h w"], target: HeldOutTarget) -> Tensor:
    return volume if target.counted is None else volume[target.counted]
