"""A picture of one subject: the middle slices of some of its frames, in radiological orientation.

Drawn by the worker that reads the scans, which keeps only three small slices of a frame.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

BACKGROUND, FOREGROUND = "#0e1318", "#d5dde3"
COLUMNS = 8
MAX_KEPT = 64  # frames of which slices are kept, at most
MAX_PIXELS = 200  # along an axis of a slice, at most: what a column of the picture can show
COLUMN_WIDTH, GAP, HEADER = 1.35, 0.06, 0.62  # inches: a column, between two columns, above all

VIEWS = (("R", "A"), ("R", "S"), ("A", "S"))
"""Which side of the body lies at the left and at the top of the axial, the coronal and the sagittal slice."""


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice of a volume and its extent in mm."""

    pixels: Float32[np.ndarray, "h w"]
    height: float
    width: float


Column = tuple[str, tuple[Slice, ...]]
"""The title of a frame and its slices, one a view."""


@dataclass
class ContactSheet:
    """Collects the frames of a subject in the order of time, then draws the first, the last and some between them."""

    kept: list[Column] = field(default_factory=list)
    last: list[Column] = field(default_factory=list)  # the newest frame, unless it is in `kept`
    seen: int = 0
    stride: int = 1

    def add(
        self,
        title: str,
        volume: Float32[np.ndarray, "d h w"],
        affine: Float[np.ndarray, "4 4"],
        spacing: Sequence[float],
    ) -> None:
        """Keep the middle slices of a frame; where there are many frames, only those of every second, fourth, …

        Args:
            affine, spacing: of the (x, y, z) grid, in mm.
        """
        column = title, middle_slices(volume, affine, spacing)
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
        """PNG bytes: a column a frame, a row a view, all to one scale of length and one of brightness."""
        return _draw(title, self.chosen())


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


def _draw(title: str, columns: Sequence[Column]) -> bytes:
    shown = [image for _, slices in columns for image in slices]
    low, high = np.percentile(np.concatenate([image.pixels.ravel() for image in shown]), (0.5, 99.5))
    scale = COLUMN_WIDTH / max(image.width for image in shown)  # inches a mm
    heights = [max(slices[view].height for _, slices in columns) * scale for view in range(len(VIEWS))]
    heights = [min(max(height, 0.2), 2 * COLUMN_WIDTH) for height in heights]  # neither too thin nor too tall
    across, down = len(columns) * (COLUMN_WIDTH + GAP) + GAP, sum(heights) + len(heights) * GAP + HEADER
    figure = Figure(figsize=(across, down), facecolor=BACKGROUND)
    figure.text(GAP / across, 1 - 0.2 / down, title, color=FOREGROUND, fontsize=10, va="center")
    for number, (name, slices) in enumerate(columns):
        left, top = GAP + number * (COLUMN_WIDTH + GAP), HEADER
        figure.text(
            (left + COLUMN_WIDTH / 2) / across,
            1 - 0.46 / down,
            name,
            color=FOREGROUND,
            fontsize=8,
            ha="center",
            va="center",
        )
        for image, height, (side, upper) in zip(slices, heights, VIEWS, strict=True):
            axis = figure.add_axes((left / across, 1 - (top + height) / down, COLUMN_WIDTH / across, height / down))
            extent = (0, image.width, 0, image.height)
            axis.imshow(image.pixels, cmap="gray", vmin=low, vmax=high, interpolation="nearest", extent=extent)
            axis.axis("off")
            if number == 0:
                letters: dict[str, Any] = {"color": FOREGROUND, "fontsize": 7, "transform": axis.transAxes}
                letters["path_effects"] = [withStroke(linewidth=1.5, foreground=BACKGROUND)]
                axis.text(0.01, 0.5, side, ha="left", va="center", **letters)
                axis.text(0.5, 0.99, upper, ha="center", va="top", **letters)
            top += height + GAP
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
