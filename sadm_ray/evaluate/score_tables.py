"""From the scores of single volumes to what people read: summary tables, the table by frame, the verdicts.

Everything here is pandas on a few numbers; the scores come from `sadm_ray.evaluate.evaluation_job`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from rich.table import Table

from sadm_ray.evaluate.calibration import COVERAGES
from sadm_ray.evaluate.metrics import SCORES
from sadm_ray.evaluate.sample_likeness import LIKENESS

COPY_LAST, INTERPOLATION = "copy-last", "interpolation"
ESTIMATE, SAMPLE = "estimate", "sample"
COPY_FIRST, EXTRAPOLATION, MEAN_CHANGE = "copy-first", "extrapolation", "mean change"
NAIVE_BASELINES = (COPY_LAST, COPY_FIRST, EXTRAPOLATION, MEAN_CHANGE, INTERPOLATION)
"""The methods that need no model, in the order in which they are shown."""

KEYS = ["subject", "task", "frame"]
METRICS_COLUMNS = [*KEYS, "time", "method", *SCORES, "error", "split"]
TABLE_COLUMNS = [
    "task", "method", "subjects", "frames", *SCORES, "delta_psnr", "delta_psnr_se", "delta_psnr_changed", "better",
]  # fmt: skip

_ROOTS = ["spread", "error"]
_CALIBRATION = [*_ROOTS, "correlation", *COVERAGES, "bounds_level", "bounds_hold", *LIKENESS]
CALIBRATION_COLUMNS = [*KEYS, "samples", *_CALIBRATION, "split"]
_TEMPORAL = ["difference_error", "flicker"]
TEMPORAL_COLUMNS = ["subject", "task", "method", "frames", *_TEMPORAL, "split"]
_VENTRICLES = ["true_ml", "predicted_ml", "error_ml", "own_error_ml"]
VENTRICLES_COLUMNS = [*KEYS, "method", "structure", *_VENTRICLES, "split"]
_STRUCTURES = [
    "dice", "hd95_mm", "true_ml", "predicted_ml", "error_ml", "true_voxels", "predicted_voxels", "empty",
    "interval_level", "interval_ml", "interval_holds", "corrected_ml", "corrected_holds", "held_out",
]  # fmt: skip
STRUCTURES_COLUMNS = [*KEYS, "method", "structure", *_STRUCTURES, "split"]
_DERIVED = [
    "true", "predicted", "error", "interval_level", "interval_width", "interval_holds", "corrected_width",
    "corrected_holds",
]  # fmt: skip
DERIVED_SCORES_COLUMNS = [*KEYS, "method", "name", *_DERIVED, "split"]

HEADINGS = {
    "task": "task",
    "method": "method",
    "subjects": "subjects",
    "psnr": "PSNR dB",
    "delta_psnr": "Δ PSNR dB",
    "psnr_changed": "PSNR changed dB",
    "delta_psnr_changed": "Δ changed dB",
    "ssim": "SSIM",
    "nrmse": "NRMSE",
    "crps_changed": "CRPS changed",
}
"""The columns that are shown, in this order. Δ: against copy-last on the same subjects and frames."""

_FORMATS = {
    "psnr": "{:.2f}",
    "psnr_changed": "{:.2f}",
    "ssim": "{:.4f}",
    "nrmse": "{:.4f}",
    "crps_changed": "{:.4f}",
}


def shown_task(row: Mapping[str, Any]) -> str:
    """What a prediction's task is called in all tables: where a study has several contrasts, with its own behind.

    So nothing that is grouped by task mixes contrasts.
    """
    return f"{row['task']} {row['contrast']}" if row.get("contrast") else str(row["task"])


def with_contrast(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is written: task and contrast in columns of their own, where a study has several contrasts."""
    if not table["task"].astype(str).str.contains(" ").any():
        return table
    names = table["task"].str.split(" ", n=1, expand=True)
    written = table.assign(task=names[0])
    written.insert(list(table.columns).index("task") + 1, "contrast", names[1].fillna(""))
    return written


def rank(method: str) -> tuple[int, str]:
    """Sort key of a method: the naive baselines first, then the model's estimate, one sample, the mean of several."""
    if method in NAIVE_BASELINES:
        return NAIVE_BASELINES.index(method), ""
    return len(NAIVE_BASELINES), {ESTIMATE: "", SAMPLE: " "}.get(method, method)


def leading(methods: Collection[str]) -> str | None:
    """The method that stands for the model: its estimate, in tables of earlier versions one sample; None: neither."""
    return next((method for method in (ESTIMATE, SAMPLE) if method in methods), None)


def by_subject(metrics: pd.DataFrame) -> pd.DataFrame:
    """One row a (task, method, subject): frames averaged, with `delta_psnr` and `delta_psnr_changed` to copy-last.

    The deltas are taken frame by frame before averaging, so a method that is defined on some frames only (such as
    interpolation) is compared with copy-last on just those.
    """
    scored = metrics[metrics["error"] == ""].reindex(columns=METRICS_COLUMNS)  # an older file lacks some scores
    baseline = scored[scored["method"] == COPY_LAST].set_index(KEYS)[["psnr", "psnr_changed"]]
    paired = scored.join(baseline.add_suffix("_copy_last"), on=KEYS)
    for name in baseline.columns:
        paired[f"delta_{name}"] = paired[name] - paired[f"{name}_copy_last"]
    groups = paired.groupby(["task", "method", "subject"])
    means = groups[[*SCORES, "delta_psnr", "delta_psnr_changed"]].mean()
    return means.assign(frames=groups.size()).reset_index()


def summarise(metrics: pd.DataFrame) -> pd.DataFrame:
    """The table: one row a (task, method), frames averaged within a subject first, then subjects.

    Args:
        metrics: one row a (subject, task, frame, method), as `METRICS_COLUMNS`; rows with an error are left out.

    Returns:
        `TABLE_COLUMNS`. `subjects` and `frames` count what was compared; `delta_psnr` (dB) is the paired difference
        to copy-last, `delta_psnr_se` its standard error over subjects (NaN for one subject), `better` the number of
        subjects on which the method beats copy-last.
    """
    subjects = by_subject(metrics)
    groups = subjects.groupby(["task", "method"])
    table = groups[[*SCORES, "delta_psnr", "delta_psnr_changed"]].mean()
    table["subjects"] = groups["subject"].nunique()
    table["frames"] = groups["frames"].sum()
    table["delta_psnr_se"] = groups["delta_psnr"].sem()
    table["better"] = (subjects["delta_psnr"] > 0).groupby([subjects["task"], subjects["method"]]).sum()
    table = table.reset_index()[TABLE_COLUMNS]
    return _in_order(table)


def summarise_temporal(temporal: pd.DataFrame) -> pd.DataFrame:
    """Means over subjects of `TEMPORAL_COLUMNS`: `task`, `method`, `difference_error`, `flicker`."""
    means = temporal.groupby(["task", "method"])[_TEMPORAL].mean().reset_index()
    return _in_order(means)


def summarise_calibration(calibration: pd.DataFrame) -> pd.DataFrame:
    """Means of `CALIBRATION_COLUMNS`, frames within a subject first: `task`, `samples`, then the scores.

    Of `spread` and `error` the squares are averaged: these have equal expectations where the samples are calibrated.
    """
    squares = calibration.assign(**{name: calibration[name] ** 2 for name in _ROOTS})
    subjects = squares.groupby(["task", "samples", "subject"])[_CALIBRATION].mean()
    means = subjects.groupby(["task", "samples"]).mean().reset_index()
    return means.assign(**{name: means[name] ** 0.5 for name in _ROOTS})


def summarise_ventricles(ventricles: pd.DataFrame) -> pd.DataFrame:
    """Means of `VENTRICLES_COLUMNS`, frames within a subject first: `task`, `method`, `structure`, `subjects`, ml."""
    return _by_structure(ventricles, _VENTRICLES)


def summarise_structures(structures: pd.DataFrame) -> pd.DataFrame:
    """Means of `STRUCTURES_COLUMNS`, frames within a subject first: `task`, `method`, `structure`, `subjects`, scores.

    What a subject has none of (mm and ml where its voxel sizes are not known, distances to an empty structure) is left
    out of that mean alone; `empty` becomes the share of those that lack the structure.
    """
    return _by_structure(structures, _STRUCTURES)


def summarise_derived(derived: pd.DataFrame) -> pd.DataFrame:
    """Means of `DERIVED_SCORES_COLUMNS`, as `summarise_structures` makes them, for each `name`."""
    return _by_structure(derived, _DERIVED, "name")


def _by_structure(table: pd.DataFrame, scores: list[str], what: str = "structure") -> pd.DataFrame:
    groups = ["task", "method", what]
    means = table.groupby([*groups, "subject"])[scores].mean().groupby(groups)
    found = means.mean().assign(subjects=means.size()).reset_index()
    return _in_order(found[[*groups, "subjects", *scores]])


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    order = sorted(table.index, key=lambda row: (table["task"][row], rank(table["method"][row])))
    return table.loc[order].reset_index(drop=True)


def by_frame(metrics: pd.DataFrame) -> pd.DataFrame:
    """Mean PSNR (dB) over subjects: one row a (task, frame), one column a method, NaN where it is not defined."""
    scored = metrics[metrics["error"] == ""]
    wide = scored.pivot_table(index=["task", "frame"], columns="method", values="psnr", aggfunc="mean").reset_index()
    wide.columns.name = None
    return wide[["task", "frame", *sorted(scored["method"].astype(str).unique(), key=rank)]]


@dataclass(frozen=True)
class Verdict:
    """Whether a method beats copy-last on a task.

    Attributes:
        gain: mean Δ PSNR in dB over `subjects`, rounded as it is shown; NaN without paired frames.
        error: its standard error (NaN for one subject).
        better: subjects on which the method scores above copy-last.
        outcome: the sign of the gain; `unclear` when it is within two standard errors of 0, or comes from one
            subject.
    """

    task: str
    method: str
    gain: float
    error: float
    subjects: int
    better: int

    @property
    def outcome(self) -> Literal["beats", "loses", "unclear"]:
        if abs(self.gain) > 2 * self.error:  # false when either is NaN
            return "beats" if self.gain > 0 else "loses"
        return "unclear"

    @property
    def sentence(self) -> str:
        """A sentence without its grammatical subject: `beats copy-last by +1.25 dB on 17 subjects …`."""
        people = "1 subject" if self.subjects == 1 else f"{self.subjects} subjects"
        if math.isnan(self.gain):
            return "cannot be compared with copy-last"
        if self.gain > 0:
            claim = f"beats copy-last by {signed(self.gain)} dB on {people}"
        elif self.gain < 0:
            claim = f"does not beat copy-last ({signed(self.gain)} dB on {people})"
        else:
            claim = f"equals copy-last (0.00 dB on {people})"
        doubt = ", within two standard errors" if 0 < abs(self.gain) <= 2 * self.error else ""
        return f"{claim}{doubt}; better on {self.better} of {self.subjects}"


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """A verdict for each task and each method of the model, in the table's order."""
    return [
        Verdict(
            task=str(row["task"]),
            method=str(row["method"]),
            gain=round(float(row["delta_psnr"]), 2) + 0.0,  # + 0.0 turns a rounded -0.0 into 0.0
            error=float(row["delta_psnr_se"]),
            subjects=int(row["subjects"]),
            better=int(row["better"]),
        )
        for _, row in table.iterrows()
        if row["method"] not in NAIVE_BASELINES
    ]


def signed(value: float) -> str:
    """`+1.25`, `−1.25` with a real minus sign, or `0.00`."""
    text = f"{value:+.2f}"
    return text.replace("-", "−") if float(text) else text[1:]


def cells(table: pd.DataFrame) -> Iterator[list[str]]:
    """The rows of a table as people read them: the columns of `HEADINGS`, `–` where there is no number."""
    for _, row in table.iterrows():
        yield [_cell(column, row[column]) for column in HEADINGS]


def render_table(table: pd.DataFrame, who: str = "") -> Table:
    """The table for a terminal; a rule between tasks, the naive baselines dimmed.

    Args:
        who: the subjects, for the title.
    """
    title = f"{who}{', a' if who else 'A'}gainst copy-last on the same frames"
    shown = Table(title=title, title_justify="left", pad_edge=False, collapse_padding=True)
    for column, heading in HEADINGS.items():
        shown.add_column(
            heading.replace(" changed", "\nchanged"), justify="left" if column in ("task", "method") else "right"
        )
    ends = table["task"] != table["task"].shift(-1)
    for row, method, ends_task in zip(cells(table), table["method"], ends, strict=True):
        shown.add_row(*row, style="dim" if method in NAIVE_BASELINES else None, end_section=bool(ends_task))
    return shown


def to_markdown(table: pd.DataFrame) -> str:
    """The table as a Markdown table, for notes and issues."""
    rule = [":--" if column in ("task", "method") else "--:" for column in HEADINGS]
    lines = [list(HEADINGS.values()), rule, *cells(table)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _cell(column: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "–"
    if column.startswith("delta_"):
        return signed(value)
    return _FORMATS[column].format(value).replace("-", "−")
