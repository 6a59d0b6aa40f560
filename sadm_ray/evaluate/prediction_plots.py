"""Pictures of what was predicted, and plots of how the run went, as PNG bytes.

Scans are shown on a dark ground, as radiologists see them. Plots are dark ink on a transparent ground, which the report
inverts in dark mode. Matplotlib's `Figure` is used without pyplot: nothing global, and no window system.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sadm_ray.evaluate.score_tables import COPY_LAST, NAIVE_BASELINES, by_frame, by_subject, rank

Series = Sequence[tuple[float, float]]

INK, FAINT = "#23303b", "#8b97a1"
GROUND, LIGHT = "#0e1318", "#d5dde3"
WIDTH = 5.6  # inches: letters stay legible when a phone shows the plot in a third of that
STRIP = 3
"""Samples that a picture shows side by side."""
COLOURS = ("#1f77b4", "#d9722e", "#2a9d8f", "#8e5ea2", "#b5485d")


def draw_prediction(
    truth: Float[np.ndarray, "d h w"],
    copied: Float[np.ndarray, "d h w"],
    samples: Float[np.ndarray, "s d h w"],
    copied_slot: int | None = None,
    estimate: Float[np.ndarray, "d h w"] | None = None,
) -> bytes:
    """Truth, copy-last, the estimate and some samples, over their errors and the samples' spread; PNG bytes.

    The slice is the one in which truth and copied frame differ most. The lower row has one colour scale, so that the
    spread can be read against the errors: where the model errs, it should also be unsure.

    Args:
        truth, copied: the true frame and the one that copy-last copies, in [0, 1].
        samples: draws of the frame, of which `STRIP` are shown.
        copied_slot: the copied frame's number, for its title.
        estimate: of the frame; none: the mean of several samples stands in its place.
    """
    across = np.abs(truth - copied).sum(axis=(1, 2))
    z = int(across.argmax()) if across.any() else len(truth) // 2
    shown, last, draws = truth[z], copied[z], samples[:, z]
    frame = "" if copied_slot is None else f" (frame {copied_slot})"
    columns = [
        ("truth", shown, "spread of samples", draws.std(axis=0) if len(draws) > 1 else None),
        (f"copy-last{frame}", last, "its error", np.abs(last - shown)),
    ]
    if estimate is not None:
        columns.append(("estimate", estimate[z], "its error", np.abs(estimate[z] - shown)))
    elif len(draws) > 1:
        mean = draws.mean(axis=0)
        columns.append((f"mean of {len(draws)}", mean, "its error", np.abs(mean - shown)))
    for number, draw in enumerate(draws[:STRIP], start=1):
        title = "one sample" if len(draws) == 1 else f"sample {number}"
        columns.append((title, draw, "its error", np.abs(draw - shown)))
    top = max(0.05, max(float(error.max()) for *_, error in columns if error is not None))

    height, width = shown.shape
    figure = Figure(figsize=(2.1 * len(columns) + 0.6, 4.2 * height / width + 0.7), facecolor=GROUND)
    figure.set_layout_engine("compressed", w_pad=0.03, h_pad=0.03)
    axes = figure.subplots(2, len(columns), squeeze=False)
    scales = []
    for column, (title, volume, below, error) in enumerate(columns):
        _show(axes[0, column], title, volume, "gray", 1.0)
        if error is None:
            axes[1, column].axis("off")
        else:
            scales.append(_show(axes[1, column], below, error, "inferno", top))
    bar = figure.colorbar(scales[-1], ax=axes[1, :], shrink=0.9, pad=0.01, aspect=16, ticks=[0, top])
    bar.ax.set_yticklabels(["0", f"{top:.2f}"], color=LIGHT, fontsize=10)
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
    return to_png(figure)


def draw_gains(metrics: pd.DataFrame) -> bytes:
    """Δ PSNR to copy-last (dB), one dot a subject, one line a task and method, the mean as a bar; PNG bytes."""
    subjects = by_subject(metrics)
    subjects = subjects[subjects["method"] != COPY_LAST]
    lines = set(zip(subjects["task"].astype(str), subjects["method"].astype(str), strict=True))
    order = sorted(lines, key=lambda line: (line[0], rank(line[1])))
    figure, axis = new_plot(height=0.6 + 0.34 * len(order))
    axis.axvline(0, color=INK, linewidth=1)
    for place, (task, method) in enumerate(order):
        gains = subjects[(subjects["task"] == task) & (subjects["method"] == method)]["delta_psnr"].to_numpy()
        colour = FAINT if method in NAIVE_BASELINES else COLOURS[0]
        axis.scatter(gains, np.full(len(gains), place), s=26, color=colour, alpha=0.45, linewidths=0)
        axis.plot([gains.mean()] * 2, [place - 0.32, place + 0.32], color=colour, linewidth=3, solid_capstyle="butt")
    axis.set_yticks(range(len(order)), [f"{task} · {method}" for task, method in order])
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("PSNR above copy-last, dB (one dot a subject; bar: mean)")
    return to_png(figure)


def draw_psnr_by_frame(metrics: pd.DataFrame) -> bytes | None:
    """Mean PSNR (dB) by target frame for the tasks with several targets, one panel each; None when there is none."""
    wide = by_frame(metrics)
    panels = [(str(task), rows) for task, rows in wide.groupby("task") if len(rows) > 1]
    if not panels:
        return None
    figure = Figure(figsize=(WIDTH, 2.7 * len(panels)), facecolor="none")
    figure.set_layout_engine("constrained")
    for axis, (task, rows) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        plain_axis(axis)
        colours, dashes = cycle(COLOURS), cycle(("-.", ":", (0, (6, 2)), (0, (1, 3))))
        for method in wide.columns.drop(["task", "frame"]):
            if rows[method].isna().all():
                continue
            colour, style = (FAINT, next(dashes)) if method in NAIVE_BASELINES else (next(colours), "-")
            if method == COPY_LAST:
                colour, style = INK, "--"
            axis.plot(
                rows["frame"], rows[method], linestyle=style, marker="o", markersize=4, color=colour, label=method
            )
        axis.set_xticks(rows["frame"])
        axis.set_xlabel(f"frame ({task})")
        axis.set_ylabel("PSNR, dB")
        add_legend(axis)
    return to_png(figure)


def draw_curves(
    series: Mapping[str, Series], ylabel: str, baseline: tuple[str, float] | None = None, log: bool = False
) -> bytes:
    """Curves by training step, such as the loss, or validation PSNR with copy-last as its baseline; PNG bytes.

    Args:
        series: name to (step, value) pairs; values that are not finite are left out.
        ylabel: what the values are, with the unit.
        baseline: name and value of a dashed level line.
        log: a logarithmic value axis.
    """
    figure, axis = new_plot(height=2.7)
    for colour, (name, pairs) in zip(COLOURS * (1 + len(series) // len(COLOURS)), series.items(), strict=False):
        points = np.array([pair for pair in pairs if np.isfinite(pair[1])], dtype=float).reshape(-1, 2)
        few = len(points) <= 20
        axis.plot(*points.T, color=colour, linewidth=1.8, marker="o" if few else None, markersize=4, label=name)
    if baseline is not None:
        axis.axhline(baseline[1], color=INK, linestyle="--", linewidth=1.4, label=baseline[0])
    if log:
        axis.set_yscale("log")
    axis.set_xlabel("training step")
    axis.set_ylabel(ylabel)
    if len(series) > 1 or baseline is not None:
        add_legend(axis)
    return to_png(figure)


def _show(axis: Axes, title: str, image: np.ndarray, colours: str, top: float) -> Any:
    axis.set_title(title, fontsize=12, color=LIGHT, pad=4)
    axis.axis("off")
    return axis.imshow(image, cmap=colours, vmin=0, vmax=top, interpolation="nearest")


def new_plot(height: float) -> tuple[Figure, Axes]:
    """A figure of `WIDTH` by `height` inches with one axis, in our style."""
    figure = Figure(figsize=(WIDTH, height), facecolor="none")
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    plain_axis(axis)
    return figure, axis


def plain_axis(axis: Axes) -> None:
    """Bring an axis into our style."""
    axis.set_facecolor("none")
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(which="both", colors=INK, labelsize=9)
    axis.xaxis.label.set_fontsize(9)
    axis.yaxis.label.set_fontsize(9)
    axis.xaxis.label.set_color(INK)
    axis.yaxis.label.set_color(INK)
    axis.grid(color=FAINT, alpha=0.22, linewidth=0.8)
    axis.set_axisbelow(True)


def add_legend(axis: Axes) -> None:
    """Above the axis, where it hides nothing."""
    above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "ncols": 4}
    axis.legend(**above, frameon=False, fontsize=9, labelcolor=INK, handlelength=1.4, columnspacing=1.2)


def to_png(figure: Figure) -> bytes:
    """PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", pad_inches=0.08)
    return buffer.getvalue()
