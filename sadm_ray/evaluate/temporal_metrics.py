"""Whether generated frames follow each other as the true ones do, which no score of a single frame shows.

A model may be near the truth in every frame and still flicker, or be smooth because it hardly moves.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Bool, Float

Sequences = Sequence[tuple[Float[np.ndarray, " t"], Float[np.ndarray, "t n"], Float[np.ndarray, "t n"]]]


def runs(
    targets: Collection[int],
    observed: Collection[int],
    present: Bool[np.ndarray, " t"],
    times: Float[np.ndarray, " t"],
) -> list[list[int]]:
    """The slots of targets that follow each other in time with no other scan between them, two or more together.

    Each run begins with the scan just before it if that is observed: the generated frames continue from it.

    Args:
        targets: slots that were scanned and of which there is a volume.
        present: which slots hold a scan.
        times: when each was acquired.
    """
    in_order = sorted(np.flatnonzero(present).tolist(), key=lambda slot: (times[slot], slot))
    found: list[list[int]] = []
    run: list[int] = []
    for place, slot in enumerate([*in_order, None]):
        if slot in targets:
            run.append(place)
            continue
        if len(run) > 1:
            before = in_order[run[0] - 1 : run[0]] if run[0] else []
            found.append([*(each for each in before if each in observed), *(in_order[each] for each in run)])
        run = []
    return found


def temporal_scores(sequences: Sequences) -> dict[str, float]:
    """Scores of one method over all its runs: `difference_error` and `flicker` (see `metrics.DEFINITIONS`).

    Args:
        sequences: of each run the times (in any unit), the true and the generated values of the region's voxels; where
            a run begins with an observed frame, that is both the true and the generated one.

    Returns:
        NaN without voxels; `flicker` is NaN where no run has three frames.
    """
    steps = [np.diff(generated.astype(np.float64) - truth, axis=0) for _, truth, generated in sequences]
    bends = [_bends(times, generated) - _bends(times, truth) for times, truth, generated in sequences]
    squared = _mean([np.square(step) for step in steps])
    return {"difference_error": math.sqrt(squared), "flicker": _mean(bends)}


def _bends(times: Float[np.ndarray, " t"], values: Float[np.ndarray, "t n"]) -> Float[np.ndarray, "inner n"]:
    """The absolute second difference at each inner frame: twice its distance from the line between its neighbours."""
    known, at = values.astype(np.float64), times.astype(np.float64)
    weight = ((at[1:-1] - at[:-2]) / (at[2:] - at[:-2]))[:, None]
    return 2.0 * np.abs((1.0 - weight) * known[:-2] + weight * known[2:] - known[1:-1])


def _mean(parts: Sequence[np.ndarray]) -> float:
    count = sum(part.size for part in parts)
    return sum(float(part.sum()) for part in parts) / count if count else math.nan
