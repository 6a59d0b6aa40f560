"""The volumes of structures in the report: of a few subjects a curve over time with its band, and a table."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sadm_ray.config import DerivedSettings
from sadm_ray.evaluate.prediction_plots import COLOURS, INK, WIDTH, plain_axis, to_png
from sadm_ray.evaluate.score_tables import ESTIMATE
from sadm_ray.generate.structure_volumes import SUMMARY
from sadm_ray.generate.volume_corrections import OTHERS
from sadm_ray.report.representative_subjects import Representative
from sadm_ray.report.table_cells import number_cell
from sadm_ray.storage import Storage

MOST_STRUCTURES = 4
"""So many are drawn of a subject."""
BOUNDS = ("low", "high"), ("corrected_low", "corrected_high")


@dataclass(frozen=True)
class VolumeCurves:
    """The curves of one subject in a task: a picture, and what it shows."""

    title: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class VolumesSection:
    """Curves, and a table of text with the volumes behind them."""

    curves: Sequence[VolumeCurves]
    table: pd.DataFrame


def volumes_section(
    predictions: str,
    structures: pd.DataFrame,
    chosen: Sequence[Representative],
    time_unit: str,
    derived: Sequence[DerivedSettings] = (),
) -> VolumesSection | None:
    """The volumes of the subjects that represent a task; None where there are no label maps.

    Args:
        predictions: the generation's folder of records; the table of volumes lies beside it.
        structures: the scores of label maps (`score_tables.STRUCTURES_COLUMNS`), where the truth is known.
        time_unit: of the study.
        derived: the structures of these numbers are drawn before others, of which the largest are.
    """
    folder = Storage(predictions.rstrip("/").rpartition("/")[0])
    if folder.entry(SUMMARY) is None:
        return None
    summary = pd.read_csv(io.BytesIO(folder.read(SUMMARY)), dtype={"subject": str, "task": str, "structure": str})
    told: dict[tuple[str, str], Representative] = {}
    for each in chosen:  # of several contrasts a task stands there once for each, with the same structures
        told.setdefault((each.subject, _task(each.task)), each)
    curves, tables = [], []
    for (subject, task), each in told.items():
        its = summary[(summary["subject"] == subject) & (summary["task"] == task)]
        if not (its["origin"] == "generated").any():
            continue
        volumes = _with_truth(its, structures)
        tables.append(volumes)
        curves.append(_curves(each, task, volumes, time_unit, [name for one in derived for name in one.structures]))
    return VolumesSection(curves, _rows(pd.concat(tables))) if curves else None


def _task(shown: str) -> str:
    """Without the contrast behind it."""
    return shown.partition(" ")[0]


def _with_truth(volumes: pd.DataFrame, structures: pd.DataFrame) -> pd.DataFrame:
    """The volumes of one subject and task with the columns `true_ml` and `true_voxels`, NaN where it is not known."""
    ours = structures[structures["method"] == ESTIMATE]
    ours = ours.assign(task=ours["task"].astype(str).map(_task), origin="generated")
    keys = ["subject", "task", "frame", "structure", "origin"]
    truth = ours[[*keys, "true_ml", "true_voxels"]].drop_duplicates(keys)
    types = {"frame": float, "subject": str, "structure": str}
    return volumes.astype(types).merge(truth.astype(types), on=keys, how="left").sort_values(["time", "structure"])


def _curves(
    each: Representative, task: str, volumes: pd.DataFrame, time_unit: str, first: Sequence[str]
) -> VolumeCurves:
    size = "ml" if volumes["estimate_ml"].notna().all() else "voxels"
    by_size = volumes.groupby("structure")[f"estimate_{size}"].max().sort_values(ascending=False)
    names = [name for name in dict.fromkeys([*first, *by_size.index]) if name in by_size.index][:MOST_STRUCTURES]
    columns = min(len(names), 2)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDTH, 2.2 * rows + 0.4), facecolor="none")
    figure.set_layout_engine("constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    bounds = _bounds(volumes, size)
    for place, axis in enumerate(axes):
        if place >= len(names):
            axis.axis("off")
            continue
        plain_axis(axis)
        _draw(axis, volumes[volumes["structure"] == names[place]], size, bounds)
        axis.set_title(names[place], fontsize=10, color=INK)
        axis.set_ylabel(size)
        axis.set_xlabel(time_unit)
    named = {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend: dict[str, Any] = {"loc": "outside upper left", "frameon": False, "fontsize": 9, "labelcolor": INK}
    figure.legend(named.values(), named.keys(), ncols=4, **legend)
    left_out = len(by_size) - len(names)
    more = f"; volumes-summary.csv has {left_out} more" if left_out else ""
    return VolumeCurves(
        title=f"{each.subject}, {task} ({each.place})",
        caption=f"{each.subject}, {task}: the {each.place} of {each.of}. {_band(volumes, bounds)}{more}.",
        png=to_png(figure),
    )


def _bounds(volumes: pd.DataFrame, size: str) -> tuple[str, str]:
    """The corrected interval where all that is generated has one; else that of the samples."""
    generated = volumes[volumes["origin"] == "generated"]
    return BOUNDS[1] if generated[f"corrected_low_{size}"].notna().all() else BOUNDS[0]


def _band(volumes: pd.DataFrame, bounds: tuple[str, str]) -> str:
    level = f"{100 * volumes['level'].iloc[0]:.3g}\N{NO-BREAK SPACE}%"
    if bounds == BOUNDS[0]:
        return f"Band: the samples’ own interval of {level}, which is not calibrated"
    fewest, others = int(volumes["held_out"].min()), (volumes["fitted_for"] == OTHERS).any()
    where = " for other tasks, as none of them has label maps of these targets" if others else ""
    return f"Band: the interval of {level}, corrected on {fewest} held-out subjects{where}"


def _draw(axis: Axes, volumes: pd.DataFrame, size: str, bounds: tuple[str, str]) -> None:
    """Observed visits, the median of the samples with its band, which opens at the visits, and the truth."""
    generated = volumes["origin"] == "generated"
    value = volumes[f"median_{size}"].where(generated, volumes[f"estimate_{size}"])
    value = value.fillna(volumes[f"estimate_{size}"])  # of one volume there is no median
    low, high = (volumes[f"{name}_{size}"].where(generated, value) for name in bounds)
    times, colour = volumes["time"].to_numpy(float), COLOURS[0]
    axis.fill_between(times, low, high, color=colour, alpha=0.18, linewidth=0)
    axis.plot(times, value, color=colour, linewidth=1.4)
    here = generated.to_numpy()
    reach = np.abs(np.stack([value - low, high - value])[:, here])
    style: dict[str, Any] = {"color": colour, "markersize": 5, "capsize": 3, "elinewidth": 1, "label": "predicted"}
    axis.errorbar(times[here], value[generated], yerr=reach, fmt="o", **style)
    axis.plot(times[~here], value[~generated], "s", color=INK, markersize=5, label="observed")
    known = volumes[f"true_{size}"].notna().to_numpy()
    if known.any():
        axis.plot(
            times[known],
            volumes[f"true_{size}"][known],
            "x",
            color=COLOURS[1],
            markersize=8,
            markeredgewidth=2,
            zorder=4,
            label="true",
        )


def _rows(volumes: pd.DataFrame) -> pd.DataFrame:
    """A row a visit and structure as text, in ml or else voxels."""
    found = []
    for _, row in volumes.iterrows():
        size = "voxels" if pd.isna(row["estimate_ml"]) else "ml"
        form = ".1f" if size == "ml" else ".0f"
        seen = row["origin"] == "observed"
        intervals = [
            "–" if pd.isna(row[f"{low}_{size}"]) else f"{row[f'{low}_{size}']:{form}} to {row[f'{high}_{size}']:{form}}"
            for low, high in BOUNDS
        ]
        found.append(
            {
                "subject": row["subject"],
                "task": row["task"],
                "time": f"{row['time']:g}",
                "structure": row["structure"],
                "unit": size,
                "observed": number_cell(row[f"estimate_{size}"] if seen else math.nan, form),
                "estimate": number_cell(math.nan if seen else row[f"estimate_{size}"], form),
                "median": number_cell(row[f"median_{size}"], form),
                "interval": intervals[0],
                "corrected": intervals[1],
                "held out": number_cell(row["held_out"], ".0f"),
                "true": number_cell(row[f"true_{size}"], form),
            }
        )
    return pd.DataFrame(found)
