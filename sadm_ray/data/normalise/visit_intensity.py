"""The intensities of the visits of a subject beside each other: each visit's own way to [0, 1], and what looks wrong.

MR intensities have no unit: another scanner, coil or protocol multiplies them, and a gain is no anatomy. A visit's way
is piecewise linear, given by its knots: (intensity in the units of the scanner, in [0, 1]) in ascending order. Beyond
the outermost ones it goes on as straight as between the last two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from sadm_ray.config import IntensitySettings
from sadm_ray.data.normalise.foreground import foreground
from sadm_ray.data.normalise.intensity import Method, Within, intensity_range, normalise

Knots = Sequence[tuple[float, float]]

LANDMARKS = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
"""Percentiles of the foreground that histogram matching brings together (Nyúl, Udupa and Zhang, IEEE TMI 2000)."""

LARGEST_BEYOND = 0.05
"""The share of a visit's foreground that may lie beyond the range of intensities, by `_MARGIN`, untold."""
_MARGIN = {True: 0.03, False: 0.5}
"""Where what lies beyond is cut off, and where it is kept."""
LARGEST_RATIO = 1.6
"""Of the standard deviations of the foregrounds of a visit and the first one, or of their medians, either way."""

_MEND = {
    "first": "set data.intensity.over=visit",
    "all": "set data.intensity.over=visit",
    "visit": "look at the scan",
}
_MEND_AIR = "set data.intensity.within=foreground"


@dataclass(frozen=True, eq=False)
class Scaled:
    """The frames of a subject in [0, 1], and the way there.

    `intensity` is what 0 and 1 stand for, in the units of the first frame's scanner; `knots` are the way of each frame
    that has one of its own. `warnings` say what looks wrong about each frame; empty where nothing does.
    """

    frames: Float32[np.ndarray, "n d h w"]
    intensity: tuple[float, float]
    knots: tuple[Knots | None, ...]
    warnings: tuple[str, ...]


def scale(volumes: Float32[np.ndarray, "n d h w"], settings: IntensitySettings, starts: Sequence[bool]) -> Scaled:
    """Bring the frames of a subject, in the units of the scanner and in the order of time, to [0, 1].

    Args:
        starts: which frames are the first of their file. A file has one gain: with `over: visit` its other frames go
            the way of the first, and only that is looked at for warnings.

    Raises:
        ValueError: there is no contrast.
    """
    method, within = settings.method, settings.within
    first, clips = volumes[0], method in ("percentile", "histogram")
    intensity = intensity_range(volumes if settings.over == "all" else first, method, within)
    knots: list[Knots | None] = []
    frames: list[Float32[np.ndarray, "d h w"]] = []
    warnings: list[str] = []
    contrast: float | None = None
    for volume, is_start in zip(volumes, starts, strict=True):
        own = knots[-1] if knots else None
        if settings.over == "visit" and frames and is_start:
            own = visit_knots(volume, first, method, within)
        knots.append(own)
        scaled = normalise(volume, intensity) if own is None else apply_knots(volume, own)
        mend = _MEND[settings.over] if within == "foreground" or frames else _MEND_AIR
        warning = ""
        if is_start:
            sample = _sampled(scaled)
            contrast = float((sample.clip(0, 1) if clips else sample).std()) if contrast is None else contrast
            warning = _warning(sample, contrast, clips, mend)
        warnings.append(warning)
        frames.append(scaled.clip(0, 1) if clips else scaled)
    return Scaled(np.stack(frames), intensity, tuple(knots), tuple(warnings))


def visit_knots(
    volume: Float[np.ndarray, "d h w"],
    first: Float[np.ndarray, "d h w"],
    method: Method,
    within: Within,
) -> Knots:
    """The way of a visit: its own range to [0, 1], or of `histogram` its landmarks to where the first visit's are.

    Raises:
        ValueError: there is no contrast.
    """
    own_lo, own_hi = intensity_range(volume, method, within)
    own_range = (own_lo, 0.0), (own_hi, 1.0)
    if method != "histogram":
        return own_range
    lo, hi = intensity_range(first, method, within)
    sources = np.percentile(volume[foreground(volume)], LANDMARKS)
    targets = (np.percentile(first[foreground(first)], LANDMARKS) - lo) / (hi - lo)
    kept = [own_range[0]]
    for source in np.unique(sources):  # of equal landmarks, as of few grey values, the middle counts
        target = float(np.median(targets[sources == source]))
        if source > kept[-1][0] and target > kept[-1][1]:
            kept.append((float(source), target))
    return kept if len(kept) > 1 else own_range


def apply_knots(volume: Float[np.ndarray, "*shape"], knots: Knots) -> Float32[np.ndarray, "*shape"]:
    """From the units of the scanner to [0, 1] and beyond; with both numbers of each knot exchanged, back."""
    sources, targets = (np.asarray(side, dtype=np.float64) for side in zip(*knots, strict=True))
    result = np.interp(volume, sources, targets)
    for outside, inner, beyond in ((0, 1, volume < sources[0]), (-1, -2, volume > sources[-1])):
        slope = (targets[outside] - targets[inner]) / (sources[outside] - sources[inner])
        result[beyond] = targets[outside] + (volume[beyond] - sources[outside]) * slope
    return result.astype(np.float32)


def undo_knots(volume: Float[np.ndarray, "*shape"], knots: Knots) -> Float32[np.ndarray, "*shape"]:
    """The inverse of `apply_knots`."""
    return apply_knots(volume, [(target, source) for source, target in knots])


def _warning(sample: Float[np.ndarray, " n"], first: float, clips: bool, mend: str) -> str:
    """What looks wrong about a visit in [0, 1], before it is cut off; empty: nothing.

    Args:
        sample: of the visit's foreground.
        first: the standard deviation of that of the first visit.
    """
    margin = _MARGIN[clips]
    beyond = np.count_nonzero((sample < -margin) | (sample > 1 + margin)) / sample.size
    if beyond > LARGEST_BEYOND:
        how = "and is cut off" if clips else "by far"
        return f"{beyond:.0%} of its foreground lies beyond the range of intensities {how}; {mend}"
    contrast = float(sample.std()) / max(first, 1e-12)
    if not 1 / LARGEST_RATIO <= contrast <= LARGEST_RATIO:
        return f"has {contrast:.2g} times the contrast of the first visit; {mend}"
    return ""


def _sampled(volume: Float[np.ndarray, "d h w"]) -> Float[np.ndarray, " n"]:
    """Voxels of the foreground, of every `step`-th along each axis: of some 30 thousand in all."""
    step = max(1, round((volume.size / 30_000) ** (1 / 3)))
    thinned = volume[::step, ::step, ::step]
    return thinned[foreground(thinned)]
