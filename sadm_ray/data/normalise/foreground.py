"""Where in a volume there is something: what is brighter than its surroundings."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

_STEP = 0.1
"""How far from the background to the bright end the foreground begins: high enough for air and ringing to stay out, low
enough for the dark rim of a brain."""


def foreground(volume: Float[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """The voxels brighter than the background, the 1st percentile, by a tenth of the way to the 99.9th.

    No single voxel moves it, nor does a scanner's gain or offset. Of a volume without contrast it is all.
    """
    ranks = [int(share * (volume.size - 1)) for share in (0.01, 0.999)]
    background, bright = np.partition(volume, ranks, axis=None)[ranks]  # `np.percentile` has a large fixed cost
    if not bright > background:
        return np.ones(volume.shape, dtype=bool)
    return np.asarray(volume > background + _STEP * (bright - background))
