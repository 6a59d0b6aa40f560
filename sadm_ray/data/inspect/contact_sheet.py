"""A picture of one subject: the middle slices of some of its frames, in radiological orientation.

On each later visit lies the outline of the first, so that a visit that lies elsewhere is seen. Drawn by the worker that
reads the scans, which keeps only three small slices of a frame.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from sadm_ray.data.normalise.foreground import foreground
from sadm_ray.data.normalise.visit_intensity import LARGEST_RATIO
from sadm_ray.data.read.visit_comparison import BesideFirst

BACKGROUND, FOREGROUND, OUTLINE = "#0e1318", "#d5dde3", "#e8a33d"
COLUMNS = 8
MAX_KEPT = 64  # frames of which slices are kept, at most
MAX_PIXELS = 200  # along an axis of a slice, at most: what a column of the picture can show
COLUMN_WIDTH, GAP, HEADER = 1.35, 0.06, 0.76  # inches: a column, between two columns, above all
TITLE, NAME, NOTE = 0.18, 0.43, 0.61  # inches from the top

VIEWS = (("R", "A"), ("R", "S"), ("A", "S"))
"""Which side of the body lies at the left and at the top of the axial, the coronal and the sagittal slice."""


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice of a volume and its extent in mm."""

    pixels: Float32[np.ndarray, "h w"]
    height: float
    width: float


@dataclass(frozen=True, eq=False)
class Column:
    """A frame: its slices, one a view, and how its visit lies beside the first (none: it is of the first)."""

    title: str
    slices: tuple[Slice, ...]
    beside: BesideFirst | None = None

    @property
    def gain(self) -> float:
        """By what the window of brightness is multiplied: 1 unless the visit is much brighter or darker."""
        level = 1.0 if self.beside is None else self.beside.level
        return level if 0 < level < 1 / LARGEST_RATIO or level > LARGEST_RATIO else 1.0

    @property
    def note(self) -> str:
        """The visit's correlation with the first and its brightness as a multiple, as in the table of `inspect`."""
        if self.beside is None:
            return ""
        own = "" if self.gain == 1 else ", own window"
        return f"fit {self.beside.correlation:.2f}, ×{self.beside.level:.2g}{own}"


@dataclass
class ContactSheet:
    """Collects the frames of a subject in the order of time, then draws the first, the last and some between them."""

    kept: list[Column] = field(default_factory=list)
    last: list[Column] = field(default_factory=list)  # the newest frame, unless it is in `kept`
    seen: int = 0
    stride: int = 1
    outline: tuple[Slice, ...] = ()  # of the first frame: 1 in its foreground

    def add(
        self,
        title: str,
        volume: Float32[np.ndarray, "d h w"],
        affine: Float[np.ndarray, "4 4"],
        spacing: Sequence[float],
        beside: BesideFirst | None = None,
    ) -> None:
        """Keep the middle slices of a frame; where there are many frames, only those of every second, fourth, …

        Args:
            affine, spacing: of the (x, y, z) grid, in mm.
            beside: how its visit lies beside the first; none: it is of the first.
        """
        column = Column(title, middle_slices(volume, affine, spacing), beside)
        if not self.seen:
            self.outline = middle_slices(foreground(volume).astype(np.float32), affine, spacing)
        if self.seen % self.stride:
            self.last = [column]
        else:
            self.kept, self.last = [*self.kept, column], []
        if len(self.kept) > MAX_KEPT:  # an odd number, so that the newest stays
            self.kept, self.stride = self.kept[::2], 2 * self.stride
        self.seen += 1

    def chosen(self) -> list[Column]:
        """The columns of the picture: at most `COLUMNS`, evenly from the first frame to the last."""
        columns = [*self.kept, *self.last]
        positions = np.linspace(0, len(columns) - 1, min(COLUMNS, len(columns))).round().astype(int)
        return [columns[position] for position in positions]

    def draw(self, title: str) -> bytes:
        """PNG bytes: a column a frame, a row a view, all to one scale of length.

        And to one window of brightness, except for visits that are much brighter or darker than the first.
        """
        return _draw(title, self.chosen(), self.outline)


def middle_slices(
    volume: Float32[np.ndarray, "d h w"], affine: Float[np.ndarray, "4 4"], spacing: Sequence[float]
) -> tuple[Slice, ...]:
    """The axial, coronal and sagittal slice through the middle, thinned to `MAX_PIXELS`.

    The axes are turned to the closest of left, posterior, superior, so that the picture is upright if the affine
    is right.
    """
    reorientation = ornt_transform(io_orientation(affine), axcodes2ornt("LPS"))
    canonical = apply_orientation(volume.T, reorientation)
    size = [0.0, 0.0, 0.0]
    for source, target in enumerate(reorientation[:, 0].astype(int)):
        size[target] = float(spacing[source])
    x, y, z = (length // 2 for length in canonical.shape)
    return (
        _slice(canonical[:, :, z].T, size[1], size[0]),
        _slice(canonical[:, y, :].T[::-1], size[2], size[0]),
        _slice(canonical[x, :, :].T[::-1], size[2], size[1]),
    )


def _slice(pixels: Float32[np.ndarray, "h w"], row: float, column: float) -> Slice:
    """A copy, since a view would keep the whole volume."""
    height, width = pixels.shape
    thinned = pixels[:: -(-height // MAX_PIXELS), :: -(-width // MAX_PIXELS)].copy()
    return Slice(thinned, height * row, width * column)


def _draw(title: str, columns: Sequence[Column], outline: Sequence[Slice]) -> bytes:
    low, high = np.percentile(
        np.concatenate([image.pixels.ravel() / column.gain for column in columns for image in column.slices]),
        (0.5, 99.5),
    )
    scale = COLUMN_WIDTH / max(image.width for column in columns for image in column.slices)  # inches a mm
    heights = [max(column.slices[view].height for column in columns) * scale for view in range(len(VIEWS))]
    heights = [min(max(height, 0.2), 2 * COLUMN_WIDTH) for height in heights]  # neither too thin nor too tall
    across, down = len(columns) * (COLUMN_WIDTH + GAP) + GAP, sum(heights) + len(heights) * GAP + HEADER
    figure = Figure(figsize=(across, down), facecolor=BACKGROUND)
    figure.text(GAP / across, 1 - TITLE / down, title, color=FOREGROUND, fontsize=10, va="center")
    for number, column in enumerate(columns):
        left, top = GAP + number * (COLUMN_WIDTH + GAP), HEADER
        middle: dict[str, Any] = {"color": FOREGROUND, "ha": "center", "va": "center"}
        center = (left + COLUMN_WIDTH / 2) / across
        figure.text(center, 1 - NAME / down, column.title, fontsize=8, **middle)
        figure.text(center, 1 - NOTE / down, column.note, fontsize=6, **middle)
        for view, (image, height) in enumerate(zip(column.slices, heights, strict=True)):
            axis = figure.add_axes((left / across, 1 - (top + height) / down, COLUMN_WIDTH / across, height / down))
            extent = (0, image.width, 0, image.height)
            window = {"vmin": low * column.gain, "vmax": high * column.gain}
            axis.imshow(image.pixels, cmap="gray", interpolation="nearest", extent=extent, **window)
            if column.beside is not None and 0 < outline[view].pixels.mean() < 1 and min(image.pixels.shape) > 1:
                line: dict[str, Any] = {"levels": [0.5], "colors": OUTLINE, "linewidths": 0.6, "origin": "upper"}
                axis.contour(outline[view].pixels, extent=extent, **line)
            axis.axis("off")
            if number == 0:
                _name_sides(axis, *VIEWS[view])
            top += height + GAP
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _name_sides(axis: Axes, side: str, upper: str) -> None:
    letters: dict[str, Any] = {"color": FOREGROUND, "fontsize": 7, "transform": axis.transAxes}
    letters["path_effects"] = [withStroke(linewidth=1.5, foreground=BACKGROUND)]
    axis.text(0.01, 0.5, side, ha="left", va="center", **letters)
    axis.text(0.5, 0.99, upper, ha="center", va="top", **letters)
