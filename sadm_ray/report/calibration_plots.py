"""Plots and table rows of the evaluation's other results: `calibration`, `temporal`, `ventricles` and `structures`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from sadm_ray.evaluate.calibration import COVERAGES, LEVELS
from sadm_ray.evaluate.prediction_plots import COLOURS, FAINT, INK, add_legend, new_plot, to_png
from sadm_ray.evaluate.sample_likeness import COHERENCE, ERROR_COHERENCE, POWER
from sadm_ray.evaluate.score_tables import (
    summarise_calibration,
    summarise_derived,
    summarise_structures,
    summarise_temporal,
    summarise_ventricles,
)
from sadm_ray.report.table_cells import number_cell

_MARKS = "osD^v"


def draw_coverage(calibration: pd.DataFrame) -> bytes | None:
    """How often the truth lay inside an interval against how often it should have, a line a task; PNG bytes.

    Args:
        calibration: a row a (subject, task, frame); None is returned where none of them has a coverage.
    """
    means = summarise_calibration(calibration).dropna(subset=COVERAGES, how="all")
    if means.empty:
        return None
    figure, axis = new_plot(height=3.6)
    axis.plot([0, 100], [0, 100], "--", color=INK, linewidth=1.4, label="ideal")
    nominal = 100 * np.asarray(LEVELS)
    for number, (_, row) in enumerate(means.iterrows()):
        colour, mark = COLOURS[number % len(COLOURS)], _MARKS[number % len(_MARKS)]
        observed = 100 * row[list(COVERAGES)].to_numpy(float)
        axis.plot(nominal, observed, marker=mark, markersize=5, color=colour, label=str(row["task"]))
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 100)
    axis.set_xlabel("nominal coverage of the interval, %")
    axis.set_ylabel("observed coverage, %")
    add_legend(axis)
    return to_png(figure)


def draw_spread(calibration: pd.DataFrame) -> bytes | None:
    """Spread of the samples against the error of their mean, a dot a subject and task; PNG bytes.

    Args:
        calibration: as `draw_coverage` takes it; None is returned where no row has both.
    """
    found = calibration[["task", "subject", "spread", "error"]].dropna()
    if found.empty:
        return None
    # Both are root mean squares: so they are averaged over frames.
    squares = found.assign(spread=found["spread"] ** 2, error=found["error"] ** 2)
    means = squares.groupby(["task", "subject"])[["spread", "error"]].mean().pow(0.5).reset_index()
    top = 1.08 * float(means[["spread", "error"]].to_numpy().max()) or 1.0
    figure, axis = new_plot(height=3.6)
    axis.plot([0, top], [0, top], "--", color=INK, linewidth=1.4, label="ideal")
    for number, (task, rows) in enumerate(means.groupby("task")):
        colour, mark = COLOURS[number % len(COLOURS)], _MARKS[number % len(_MARKS)]
        axis.scatter(
            rows["spread"], rows["error"], s=30, marker=mark, color=colour, alpha=0.6, linewidths=0, label=task
        )
    axis.set_xlim(0, top)
    axis.set_ylim(0, top)
    axis.set_xlabel("spread of the samples (below the line: unsure without need)")
    axis.set_ylabel("error of their mean")
    axis.fill_between([0, top], [0, top], top, color=FAINT, alpha=0.08, linewidth=0)
    add_legend(axis)
    return to_png(figure)


def calibration_rows(calibration: pd.DataFrame) -> pd.DataFrame:
    """A row a task as text: spread, error, their ratio, rank correlation and coverage of the 90 % interval."""
    means = summarise_calibration(calibration)
    return pd.DataFrame(
        {
            "task": str(row["task"]),
            "samples": str(row["samples"]),
            "spread": number_cell(row["spread"], ".4f"),
            "error": number_cell(row["error"], ".4f"),
            "spread / error": number_cell(row["spread"] / row["error"] if row["error"] else math.nan, ".2f"),
            "correlation": number_cell(row["correlation"], "+.2f"),
            "in the 90 % interval": number_cell(100 * row["coverage_90"], ".0f", " %"),
            "in the bounds": _held(row["bounds_hold"], row["bounds_level"]),
            "alike at 1, 2, 4 voxels": _side_by_side(row, COHERENCE, ERROR_COHERENCE),
            "power by band dB": ", ".join(number_cell(row[name], "+.1f") for name in POWER),
        }
        for _, row in means.iterrows()
    )


def temporal_rows(temporal: pd.DataFrame) -> pd.DataFrame:
    """A row a (task, method) as text: the error of the changes from frame to frame, and flicker above the truth's."""
    return pd.DataFrame(
        {
            "task": str(row["task"]),
            "method": str(row["method"]),
            "error of changes": number_cell(row["difference_error"], ".4f"),
            "flicker": number_cell(row["flicker"], "+.4f"),
        }
        for _, row in summarise_temporal(temporal).iterrows()
    )


def ventricle_rows(ventricles: pd.DataFrame) -> pd.DataFrame:
    """A row a (task, method, structure) as text, ml, with the measure's own error beside the method's."""
    return pd.DataFrame(
        {
            "task": str(row["task"]),
            "method": str(row["method"]),
            "structure": str(row["structure"]),
            "subjects": str(row["subjects"]),
            "true ml": number_cell(row["true_ml"], ".1f"),
            "predicted ml": number_cell(row["predicted_ml"], ".1f"),
            "error ml": number_cell(row["error_ml"], ".1f"),
            "of the measure ml": number_cell(row["own_error_ml"], ".1f"),
        }
        for _, row in summarise_ventricles(ventricles).iterrows()
    )


def structure_rows(structures: pd.DataFrame) -> pd.DataFrame:
    """A row a (task, method, structure) as text: Dice, distance in mm, volumes in ml or else voxels."""
    return pd.DataFrame(
        {
            "task": str(row["task"]),
            "method": str(row["method"]),
            "structure": str(row["structure"]),
            "subjects": str(row["subjects"]),
            "Dice": number_cell(row["dice"], ".3f"),
            "HD95 mm": number_cell(row["hd95_mm"], ".1f"),
            "true ml": number_cell(row["true_ml"], ".1f"),
            "predicted ml": number_cell(row["predicted_ml"], ".1f"),
            "error ml": number_cell(row["error_ml"], ".1f"),
            "true voxels": number_cell(row["true_voxels"], ".0f"),
            "predicted voxels": number_cell(row["predicted_voxels"], ".0f"),
            "interval holds": _held(row["interval_holds"], row["interval_level"]),
            "its width ml": number_cell(row["interval_ml"], ".1f"),
            "corrected holds": _held(row["corrected_holds"], row["interval_level"]),
            "its width ml, corrected": number_cell(row["corrected_ml"], ".1f"),
            "held out": number_cell(row["held_out"], ".0f"),
        }
        for _, row in summarise_structures(structures).iterrows()
    )


def derived_rows(derived: pd.DataFrame) -> pd.DataFrame:
    """A row a (task, method, number) as text, in the number's own unit."""
    return pd.DataFrame(
        {
            "task": str(row["task"]),
            "method": str(row["method"]),
            "number": str(row["name"]),
            "subjects": str(row["subjects"]),
            "true": number_cell(row["true"], ".1f"),
            "predicted": number_cell(row["predicted"], ".1f"),
            "error": number_cell(row["error"], ".1f"),
            "interval holds": _held(row["interval_holds"], row["interval_level"]),
            "its width": number_cell(row["interval_width"], ".1f"),
            "corrected holds": _held(row["corrected_holds"], row["interval_level"]),
            "its width, corrected": number_cell(row["corrected_width"], ".1f"),
        }
        for _, row in summarise_derived(derived).iterrows()
    )


def _held(part: float, level: float) -> str:
    """How much of the truth is held, and how much was promised; empty where nothing was."""
    return "" if pd.isna(part) else f"{100 * part:.0f} % of {100 * level:.3g} %"


def _side_by_side(row: pd.Series, ours: Sequence[str], ideal: Sequence[str]) -> str:
    """Numbers of the samples, and in brackets what they should be."""
    return ", ".join(
        f"{number_cell(row[a], '.2f')} ({number_cell(row[b], '.2f')})" for a, b in zip(ours, ideal, strict=True)
    )
