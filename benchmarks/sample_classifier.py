"""Can samples be told from scans? A small classifier of slices, cross-validated by subject."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.report.viewer_volumes import TRUTH, read_volumes

FOLDS, STEPS, BATCH = 4, 200, 32
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.05
_WIDTHS = (1, 16, 32, 64)

Volumes = Sequence[Float[np.ndarray, "d h w"]]


def told_apart(scans: Mapping[str, Volumes], samples: Mapping[str, Volumes], seed: int = 0) -> float:
    """The area under the ROC curve over all slices, each judged by a classifier that has not seen its subject.

    0.5: scans and samples cannot be told apart; 1: always.

    Args:
        scans, samples: of each subject volumes in [0, 1], as many of one kind as of the other.

    Returns:
        the area; NaN of fewer subjects than `FOLDS`.
    """
    names = sorted(scans)
    if len(names) < FOLDS:
        return math.nan
    slices = {name: _slices(scans[name], samples[name]) for name in names}
    scores, labels = [], []
    for fold in range(FOLDS):
        judged = names[fold::FOLDS]
        model = _trained([slices[name] for name in names if name not in judged], seed + fold)
        for name in judged:
            images, is_sample = slices[name]
            scores.append(model(images)[:, 0].detach().numpy())
            labels.append(is_sample.numpy())
    return _area(np.concatenate(scores), np.concatenate(labels).astype(bool))


def told_apart_in(study: Study, predictions: str, subjects: Sequence[str], task: str) -> float:
    """The same of the frames of a task that were generated (their first samples) and scanned.

    Args:
        predictions: the folder of `generation_record`.
    """
    found = {subject: read_volumes(study, predictions, subject, task).quantities for subject in subjects}
    scans, samples = ({name: list(each[kind]) for name, each in found.items()} for kind in (TRUTH, "sample-1"))
    return told_apart(scans, samples)


def _slices(scans: Volumes, samples: Volumes) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, " n"]]:
    """Slices, and 1 for those of samples."""
    kinds = [torch.from_numpy(np.concatenate([*volumes]).astype(np.float32))[:, None] for volumes in (scans, samples)]
    return torch.cat(kinds), torch.cat([torch.full((len(each),), float(kind)) for kind, each in enumerate(kinds)])


def _trained(known: Sequence[tuple[Tensor, Tensor]], seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of the first weights
    images, is_sample = (torch.cat(each) for each in zip(*known, strict=True))
    model = _classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        batch = images[chosen]
        for axis in (2, 3):  # the organ lies anyhow
            if torch.rand(1, generator=generator) < 0.5:
                batch = batch.flip(axis)
        loss = F.binary_cross_entropy_with_logits(model(batch)[:, 0], is_sample[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def _classifier() -> nn.Module:
    parts: list[nn.Module] = []
    for before, width in pairwise(_WIDTHS):
        parts += [
            nn.Conv2d(before, width, 3, padding=1),
            nn.GroupNorm(4, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.SiLU(),
        ]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(_WIDTHS[-1], 1))


def _area(scores: Float[np.ndarray, " n"], is_sample: np.ndarray) -> float:
    """The chance that a slice of a sample has a higher score than one of a scan, ties half."""
    ranks, positives = rankdata(scores), int(is_sample.sum())
    wins = ranks[is_sample].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * (len(scores) - positives)))
