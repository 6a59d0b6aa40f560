"""Plots of a sweep: quality against cost, and which settings decide it; PNGs in the style of `prediction_plots`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from sadm_ray.config import SamplingSettings
from sadm_ray.evaluate.prediction_plots import COLOURS, FAINT, INK, add_legend, new_plot, to_png
from sadm_ray.evaluate.sweep_objectives import OBJECTIVES

MEANINGS = {
    "crps": "CRPS in the changed region (less is better)",
    "gain": "PSNR above copy-last, dB",
    "gain_changed": "PSNR above copy-last in the changed region, dB",
    "ssim": "SSIM",
    "nrmse_changed": "NRMSE in the changed region (less is better)",
    "calibration": "|log2 of spread over error| (less is better)",
    "dice": "Dice of the structures",
    "volume_error": "error of volumes over copy-last's (less is better)",
}
FEWEST, BINS = 8, 3


def draw_pareto(trials: pd.DataFrame, objective: str) -> bytes | None:
    """The first objective against network calls, with the front of the best trades; None when there is nothing to draw.

    Trials that were stopped early are faint, as they saw fewer subjects; those that are off the scale of the others
    stand at its edge.

    Args:
        trials: the table of the sweep (`tune.sweep_result.SamplingSweep.trials`).
        objective: its column.
    """
    trials = trials[trials[objective].notna()]
    full, stopped = trials[~trials["stopped"]], trials[trials["stopped"]]
    if full.empty:
        return None
    figure, axis = new_plot(height=3.4)
    baseline = [0.0] if objective.startswith("gain") else []
    low, high = min([full[objective].min(), *baseline]), max([full[objective].max(), *baseline])
    room = 0.12 * (high - low or abs(high) or 1.0)
    low, high = low - room, high + 2 * room  # above: the name of the chosen one
    axis.scatter(
        stopped["network_calls"],
        stopped[objective].clip(low + 0.3 * room, high - 0.3 * room),
        marker="x",
        s=34,
        color=FAINT,
        alpha=0.7,
        linewidths=1.4,
        label="stopped early" if len(stopped) else "_",  # matplotlib's way to leave it out of the legend
    )
    front = cheapest_best(full, objective)
    axis.step(front["network_calls"], front[objective], where="post", color=COLOURS[0], linewidth=1.4, label="front")
    axis.scatter(
        full["network_calls"], full[objective], s=40, color=COLOURS[0], alpha=0.7, linewidths=0, label="trial", zorder=3
    )
    if baseline:
        axis.axhline(0.0, color=INK, linestyle="--", linewidth=1.4, label="copy-last", zorder=1)
    ticks = sorted({2 ** round(np.log2(calls)) for calls in trials["network_calls"]})
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlim(trials["network_calls"].min() / 1.35, trials["network_calls"].max() * 1.35)
    axis.set_ylim(low, high)
    axis.set_xlabel("network calls a frame")
    axis.set_ylabel(MEANINGS[objective])
    for _, chosen in full[full["chosen"]].iterrows():
        _point_out(axis, chosen, objective)
    add_legend(axis)
    return to_png(figure)


def draw_importance(trials: pd.DataFrame, objective: str) -> bytes | None:
    """How much of the objective's variance each setting explains by itself, as bars; None with too few trials."""
    shares = importance(trials, objective)
    if not shares:
        return None
    figure, axis = new_plot(height=0.9 + 0.32 * len(shares))
    names = sorted(shares, key=lambda name: shares[name])
    axis.barh(range(len(names)), [100 * shares[name] for name in names], height=0.62, color=COLOURS[0])
    for place, name in enumerate(names):
        axis.text(100 * shares[name] + 1.5, place, f"{100 * shares[name]:.0f} %", va="center", color=INK, fontsize=9)
    axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.set_xlim(0, 112)
    axis.set_xticks(range(0, 101, 25))
    axis.set_xlabel(f"variance explained, %: {MEANINGS[objective].split(' (')[0]}")
    return to_png(figure)


def importance(trials: pd.DataFrame, objective: str) -> dict[str, float]:
    """The share of the objective's variance that each setting explains alone, over the trials that saw all subjects.

    ε² of a one-way analysis of variance (Kelley, 1935), at least 0; numbers with many values are put into `BINS` groups
    of one size. Optuna's PED-ANOVA was tried: on a few dozen trials it ranked a setting without effect first.

    Returns:
        the settings that vary; empty with fewer than `FEWEST` trials, or when all do equally well.
    """
    full = trials[~trials["stopped"] & trials[objective].notna()]
    worth = full[objective]
    total = float(np.square(worth - worth.mean()).sum())
    if len(full) < FEWEST or total <= 1e-12:
        return {}
    shares = {}
    for name in SamplingSettings.model_fields:
        if name not in full:
            continue
        values = full[name].map(str)
        if pd.api.types.is_float_dtype(full[name]) and full[name].nunique() > BINS + 1:
            values = pd.qcut(full[name], BINS, labels=False, duplicates="drop").map(str)
        groups = values.nunique()
        if not 1 < groups < len(full):
            continue
        within = float(np.square(worth - worth.groupby(values).transform("mean")).sum()) / (len(full) - groups)
        shares[name] = max(0.0, 1.0 - within * (len(full) - 1) / total)
    return shares


def cheapest_best(trials: pd.DataFrame, objective: str) -> pd.DataFrame:
    """The trials that no other beats in both network calls and the objective, by rising calls."""
    sign = 1.0 if OBJECTIVES[objective][0] == "max" else -1.0
    worth = sign * trials[objective]
    in_order = trials.assign(worth=worth).sort_values(["network_calls", "worth"], ascending=[True, False])
    before = in_order["worth"].cummax().shift(fill_value=-np.inf)
    return in_order[in_order["worth"] > before].drop(columns="worth")


def _point_out(axis: Axes, chosen: pd.Series, objective: str) -> None:
    """Mark the chosen trial with a ring and its settings, on the side where there is room."""
    x, y = chosen["network_calls"], chosen[objective]
    axis.scatter([x], [y], s=150, facecolors="none", edgecolors=COLOURS[1], linewidths=2, zorder=4)
    steps = int(chosen["num_steps"])
    name = f"chosen: {chosen['sampler']}, {steps} step{'s' * (steps > 1)}"
    if chosen["guidance_scale"]:
        name += f",\nguidance {chosen['guidance_scale']:g}"
    left, right = axis.get_xlim()
    is_left = np.log2(x / left) < 0.5 * np.log2(right / left)
    axis.annotate(
        name,
        (x, y),
        xytext=(-8 if is_left else 8, 13),
        textcoords="offset points",
        ha="left" if is_left else "right",
        color=COLOURS[1],
        fontsize=9,
        fontweight="bold",
        path_effects=[withStroke(linewidth=3, foreground="white")],  # where another trial is behind it
    )
