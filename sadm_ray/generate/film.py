"""A sequence as an endless GIF, which marks what is generated."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image

_PIXELS = 256  # the longer side of a film, at least
_MARK = 6  # rows of pixels above a generated frame of a film
_MILLISECONDS = 250


def film(slices: Sequence[Float[np.ndarray, "h w"]], marked: Sequence[bool]) -> bytes:
    """An endless GIF; a bright bar is above the frames that are generated."""
    pictures = []
    height, width = slices[0].shape
    times = max(1, -(-_PIXELS // max(height, width)))
    white = max(float(np.percentile(np.stack(slices), 99.5)), 1e-6)  # a few bright voxels would leave the rest dark
    for pixels, mark in zip(slices, marked, strict=True):
        grey = np.kron(np.clip(pixels * (255 / white), 0, 255).astype(np.uint8), np.ones((times, times), np.uint8))
        bar = np.full((_MARK, grey.shape[1]), 255 if mark else 0, np.uint8)
        pictures.append(Image.fromarray(np.concatenate([bar, grey])))
    sink = io.BytesIO()
    pictures[0].save(sink, "GIF", save_all=True, append_images=pictures[1:], duration=_MILLISECONDS, loop=0)
    return sink.getvalue()
