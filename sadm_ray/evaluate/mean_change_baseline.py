"""The naive baseline for studies whose subjects all change alike: the average change of the training subjects.

The mean is one Ray Data job over the training subjects: each block of them is summed where it is read, and only sums
come back, one block at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64
from numpy.typing import NDArray

from sadm_ray.data.shards.prepared_study import Study, rows_of
from sadm_ray.data.shards.row_contrasts import of_contrast
from sadm_ray.data.shards.subject_row import parse_row
from sadm_ray.evaluate.naive_baselines import last_observed, within_observed_range

Pair = tuple[int, int]
ALL_TIME: Pair = (-1, -1)
"""Stands for the change from the first visit to the last, which gives the rate of a study with free visit times."""


@dataclass(frozen=True)
class MeanChange:
    """The mean change of training subjects: by (copied slot, target slot), or per unit of time.

    Attributes:
        changes: the mean of target − copied over the subjects that have both; empty where visits have free times.
        rate: intensity per unit of the study's time; None where slots are fixed.
        by_contrast: of a study with several contrasts, that of each; the others are then empty.
    """

    changes: Mapping[Pair, Float32[np.ndarray, "d h w"]]
    rate: Float32[np.ndarray, "d h w"] | None
    by_contrast: Mapping[str, MeanChange | None] = field(default_factory=dict)

    def of(self, contrast: str) -> MeanChange | None:
        """That of one contrast, whose name is empty where a study has one."""
        return self.by_contrast.get(contrast) if self.by_contrast else self

    def predict(
        self,
        frames: Float[np.ndarray, "t d h w"],
        observed: Sequence[int],
        times: Float[np.ndarray, " t"],
        target: int,
    ) -> NDArray | None:
        """Copy-last plus the mean change, `within_observed_range`; None where no training subject has it.

        Raises:
            ValueError: nothing is observed, or the target itself is.
        """
        copied = last_observed(observed, times, target)
        change = self.changes.get((copied, target))
        if self.rate is not None:
            change = np.float32(times[target] - times[copied]) * self.rate
        return None if change is None else within_observed_range(frames[copied] + change, frames, observed)


def mean_change_by_contrast(
    study: Study, pairs: Mapping[str, Collection[Pair]], leave_out: Collection[str] = ()
) -> MeanChange | None:
    """`mean_change` of each contrast; `pairs` are by its name."""
    if len(study.contrasts) == 1:
        return mean_change(study, pairs.get("", ()), leave_out)
    each = enumerate(study.contrasts)
    return MeanChange(
        {}, None, {name: mean_change(study, pairs.get(name, ()), leave_out, channel) for channel, name in each}
    )


def mean_change(
    study: Study, pairs: Collection[Pair], leave_out: Collection[str] = (), channel: int = 0
) -> MeanChange | None:
    """The mean change of the study's training subjects; None where there are none. Ray must be running.

    Args:
        pairs: (copied slot, target slot) of all predictions; no others are summed.
        leave_out: subjects that it is compared on: the study may have been split anew since the model was trained.
        channel: which of several contrasts.
    """
    names = [name for name in study.subjects.get("train", ()) if name not in leave_out]
    wanted = sorted(pairs) if study.frames is not None else [ALL_TIME]
    if not names or not pairs:
        return None
    sums = rows_of(study, names).map_batches(
        _sum_block, fn_kwargs={"pairs": wanted, "channel": channel}, batch_size=None, batch_format="pyarrow"
    )
    totals: dict[Pair, Float64[np.ndarray, "d h w"]] = {}
    weights: dict[Pair, float] = {}
    for row in sums.iter_rows():
        pair = (int(row["copied"]), int(row["target"]))
        totals.setdefault(pair, np.zeros(study.shape))
        totals[pair] += np.frombuffer(row["sum"], np.float64).reshape(study.shape)
        weights[pair] = weights.get(pair, 0.0) + float(row["weight"])
    means = {pair: (total / weights[pair]).astype(np.float32) for pair, total in totals.items() if weights[pair] > 0}
    return MeanChange({}, means.get(ALL_TIME)) if study.frames is None else MeanChange(means, None)


def _sum_block(block: Any, pairs: Sequence[Pair], channel: int = 0) -> dict[str, list[Any]]:
    """The sums over a block of stored rows (an Arrow table), one a pair: `copied`, `target`, `sum`, `weight`."""
    sums: dict[Pair, Any] = dict.fromkeys(pairs, 0.0)
    weights = dict.fromkeys(pairs, 0.0)
    for place in range(block.num_rows):  # one subject's frames at a time
        row = of_contrast(parse_row(block.slice(place, 1).to_pylist()[0]), channel)
        for pair in pairs:
            change, weight = _change(row, pair)
            sums[pair], weights[pair] = sums[pair] + change, weights[pair] + weight
    known = [pair for pair in pairs if weights[pair]]
    return {
        "copied": [pair[0] for pair in known],
        "target": [pair[1] for pair in known],
        "sum": [sums[pair].tobytes() for pair in known],
        "weight": [weights[pair] for pair in known],
    }


def _change(row: Mapping[str, Any], pair: Pair) -> tuple[Any, float]:
    """A subject's change (float64) and its weight: 1 for a pair of slots, the time between the visits for `ALL_TIME`.

    The rate is the sum of all changes over the sum of all gaps between consecutive visits: short gaps, whose own rates
    are mostly noise, weigh little. All but the first visit and the last cancel.
    """
    present, weight = np.flatnonzero(row["present"]), 1.0
    copied, target = pair
    if not len(present):
        return 0.0, 0.0
    if pair == ALL_TIME:
        copied, target = present[0], present[-1]
        weight = float(row["times"][target]) - float(row["times"][copied])
    elif copied not in present or target not in present:
        return 0.0, 0.0
    return row["frames"][target, 0].astype(np.float64) - row["frames"][copied, 0], weight
