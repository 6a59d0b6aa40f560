"""The run's report: one HTML file that needs no network, and says what the numbers say, good or bad.

The verdicts are computed from the table while the page is written; nothing about the outcome is worded here.
"""

from __future__ import annotations

import base64
import importlib.resources
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from sadm_ray.evaluate.launch import Evaluation
from sadm_ray.evaluate.metrics import DEFINITIONS
from sadm_ray.evaluate.pictures import draw_gains, draw_psnr_by_frame
from sadm_ray.evaluate.tables import FLOORS, HEADINGS, Verdict, by_frame, cells, signed, verdicts

SYNTHETIC_NOTE = "The generated images are synthetic: research only, not for clinical use."


MOST_TRIALS = 20
"""How many rows of a sweep the page shows."""


@dataclass(frozen=True)
class Sweep:
    """The trials of a sweep (a row each, the best first), on which validation subjects, and the plots of it (PNG)."""

    trials: pd.DataFrame
    subjects: Sequence[str]
    pareto_png: bytes | None = None
    importance_png: bytes | None = None


@dataclass(frozen=True)
class Report:
    """What the page is made of. Empty parts are left out of it.

    Attributes:
        title, created: the run's name, and when, as text.
        evaluation: what `evaluate_predictions` returned.
        summary: sentences to stand below the title, such as what the study is and how long the run took.
        curves: caption to PNG, such as the loss and the validation PSNR by step.
        sweep: what the sampling sweep found.
        problems: lines about what failed on the way, besides those of the evaluation.
        settings_yaml: all settings of the run; passwords inside addresses are hidden.
        versions, facts: name to value, such as `torch: 2.13.0` and `parameters: 3.1 million`.
        notes: what a reader must know before using anything of this.
    """

    title: str
    created: str
    evaluation: Evaluation
    summary: Sequence[str] = ()
    curves: Mapping[str, bytes] = field(default_factory=dict)
    sweep: Sweep | None = None
    problems: Sequence[str] = ()
    settings_yaml: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = (SYNTHETIC_NOTE,)


def write_report(path: Path, report: Report) -> None:
    """Write the report as one self-contained HTML file; a reader never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(render_report(report), encoding="utf-8")
    unfinished.replace(path)


def render_report(report: Report) -> str:
    """The page as text: pictures are inside it as data, and everything that comes from outside is escaped."""
    template = importlib.resources.files("sadm_ray.evaluate").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"data_uri": _data_uri, "signed": signed}
    evaluation = report.evaluation
    judged = verdicts(evaluation.table)
    has_scores = bool((evaluation.metrics["error"] == "").any())
    return environment.from_string(template).render(
        report=report,
        headline=headline(judged),
        judged=[(task, list(group)) for task, group in groupby(judged, key=lambda verdict: verdict.task)],
        headings=[heading for column, heading in HEADINGS.items() if column != "task"],
        tasks=_rows_by_task(evaluation.table),
        gains_png=draw_gains(evaluation.metrics) if has_scores else None,
        by_frame_png=draw_psnr_by_frame(evaluation.metrics) if has_scores else None,
        by_frame=_plain_rows(by_frame(evaluation.metrics)) if has_scores else [],
        trials=_plain_rows(report.sweep.trials.head(MOST_TRIALS)) if report.sweep else [],
        others=max(len(report.sweep.trials) - MOST_TRIALS, 0) if report.sweep else 0,
        pictures=evaluation.pictures,
        problems=[*report.problems, *evaluation.problems],
        settings=re.sub(r"(?<=://)[^/\s@]+@", "…@", report.settings_yaml),
        definitions=DEFINITIONS,
    )


def headline(judged: Sequence[Verdict]) -> str:
    """One sentence over all tasks, such as `One sample clearly beats copy-last on 2 of 3 tasks, the mean of 4 on …`.

    Clearly: by more than two standard errors.
    """
    if not judged:
        return "Nothing was predicted that could be compared with copy-last."
    parts = []
    for method in dict.fromkeys(verdict.method for verdict in judged):
        outcomes = [verdict.outcome for verdict in judged if verdict.method == method]
        name = "one sample" if method == "sample" else f"the {method}"
        parts.append((name, f"on {outcomes.count('beats')} of {len(outcomes)} task{'s' * (len(outcomes) > 1)}"))
    (first, where), *others = parts
    return (
        f"{first[0].upper()}{first[1:]} clearly beats copy-last {where}"
        + "".join(f", {n} {w}" for n, w in others)
        + "."
    )


def _rows_by_task(table: pd.DataFrame) -> list[dict[str, Any]]:
    """For each task its rows of cells; the best PSNR is marked, and floors are told from the model's methods."""
    outcomes = {(verdict.task, verdict.method): verdict.outcome for verdict in verdicts(table)}
    tasks = []
    for task, rows in table.groupby("task", sort=False):
        lines = [
            {
                "method": method,
                "cells": line[2:],
                "floor": method in FLOORS,
                "best": psnr == rows["psnr"].max(),
                "outcome": outcomes.get((str(task), method), ""),
            }
            for line, method, psnr in zip(cells(rows), rows["method"], rows["psnr"], strict=True)
        ]
        tasks.append({"task": str(task), "rows": lines})
    return tasks


def _plain_rows(table: pd.DataFrame) -> list[list[str]]:
    """The column names, then the rows, as text; numbers with two digits after the point."""
    return [[str(name).replace("_", " ") for name in table.columns]] + [
        [_plain(value) for value in row] for row in table.itertuples(index=False)
    ]


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.2f}".replace("-", "−") if isinstance(value, float) else str(value)


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
