"""The run's report: one HTML file that needs no network.

The verdicts are computed from the table while the page is written; no outcome is worded beforehand.
"""

from __future__ import annotations

import base64
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from sadm_ray.evaluate.evaluation_job import Evaluation
from sadm_ray.evaluate.metrics import CHANGE_THRESHOLD, DEFINITIONS
from sadm_ray.evaluate.prediction_plots import draw_gains, draw_psnr_by_frame
from sadm_ray.evaluate.score_tables import HEADINGS, Verdict, by_frame, signed, verdicts
from sadm_ray.evaluate.who_is_scored import TITLES
from sadm_ray.report.calibration_plots import (
    calibration_rows,
    derived_rows,
    draw_coverage,
    draw_spread,
    structure_rows,
    temporal_rows,
    ventricle_rows,
)
from sadm_ray.report.cards import Card
from sadm_ray.report.representative_subjects import representatives
from sadm_ray.report.table_cells import plain_rows, rows_by_task
from sadm_ray.report.viewer import Viewer
from sadm_ray.report.volume_curves import VolumesSection

SYNTHETIC_NOTE = "The generated images are synthetic: research only, not for clinical use."

MOST_TRIALS = 20
"""How many rows of a sweep the page shows."""


@dataclass(frozen=True)
class SweepSection:
    """The trials of a sweep (a row each, the best first), on which validation subjects, and the plots of it (PNG)."""

    trials: pd.DataFrame
    subjects: Sequence[str]
    pareto_png: bytes | None = None
    importance_png: bytes | None = None


@dataclass(frozen=True)
class ComparisonSection:
    """Several models side by side: a table of text, as it is to be shown, below a title and a note."""

    title: str
    note: str
    table: pd.DataFrame


@dataclass(frozen=True)
class Report:
    """The content of the page. Empty parts are left out.

    Attributes:
        title, created: the run's name, and when, as text.
        evaluation: what `evaluate_predictions` returned.
        summary: sentences below the title, such as what the study is and how long the run took.
        comparisons: tables of several models.
        viewer: the volumes to look at.
        volumes: those of structures.
        curves: caption to PNG, such as the loss and the validation PSNR by step.
        sweep: what the sampling sweep found.
        problems: lines about what failed on the way, besides those of the evaluation.
        cards: of the data and of the model.
        settings_yaml: all settings of the run; passwords inside addresses are hidden.
        versions: name to value, such as `torch: 2.13.0`.
        links: what lies beside the page, name to relative address.
        notes: what a reader must know before using anything of this.
    """

    title: str
    created: str
    evaluation: Evaluation
    summary: Sequence[str] = ()
    comparisons: Sequence[ComparisonSection] = ()
    viewer: Viewer | None = None
    volumes: VolumesSection | None = None
    curves: Mapping[str, bytes] = field(default_factory=dict)
    sweep: SweepSection | None = None
    problems: Sequence[str] = ()
    cards: Sequence[Card] = ()
    settings_yaml: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = (SYNTHETIC_NOTE,)


def write_report(path: Path, report: Report) -> None:
    """Write the report as one self-contained HTML file; a reader never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(render_report(report), encoding="utf-8")
    unfinished.replace(path)


def render_report(report: Report) -> str:
    """The page as text: pictures, volumes and scripts are inside it; all text from outside is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_part),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "base64": _base64, "signed": signed}
    evaluation = report.evaluation
    judged = verdicts(evaluation.table)
    has_scores = bool((evaluation.metrics["error"] == "").any())
    viewer = report.viewer
    return environment.get_template("page.html").render(
        report=report,
        style=Markup(_part("style.css")),  # noqa: S704  (ours)
        scripts=[Markup(script) for script in viewer.scripts] if viewer and viewer.views else [],  # noqa: S704  (ours)
        views_json=Markup(viewer.views_json) if viewer else "",  # noqa: S704  (escaped as JSON)
        headline=headline(judged),
        judged=[(task, list(group)) for task, group in groupby(judged, key=lambda verdict: verdict.task)],
        headings=[heading for column, heading in HEADINGS.items() if column != "task"],
        tasks=rows_by_task(evaluation.table),
        others=[(TITLES[each.split], rows_by_task(each.table)) for each in evaluation.others],
        gains_png=draw_gains(evaluation.metrics) if has_scores else None,
        by_frame_png=draw_psnr_by_frame(evaluation.metrics) if has_scores else None,
        by_frame=plain_rows(by_frame(evaluation.metrics)) if has_scores else [],
        representatives=representatives(evaluation.metrics) if has_scores else [],
        in_viewer={view.representative.name for view in viewer.views} if viewer else set(),
        calibration=plain_rows(calibration_rows(evaluation.calibration)) if len(evaluation.calibration) else [],
        coverage_png=draw_coverage(evaluation.calibration),
        spread_png=draw_spread(evaluation.calibration),
        temporal=plain_rows(temporal_rows(evaluation.temporal)) if len(evaluation.temporal) else [],
        ventricles=plain_rows(ventricle_rows(evaluation.ventricles)) if len(evaluation.ventricles) else [],
        structures=plain_rows(structure_rows(evaluation.structures)) if len(evaluation.structures) else [],
        derived=plain_rows(derived_rows(evaluation.derived)) if len(evaluation.derived) else [],
        volumes=plain_rows(report.volumes.table) if report.volumes else [],
        comparisons=[(each, plain_rows(each.table)) for each in report.comparisons],
        trials=plain_rows(report.sweep.trials.head(MOST_TRIALS)) if report.sweep else [],
        more_trials=max(len(report.sweep.trials) - MOST_TRIALS, 0) if report.sweep else 0,
        pictures=evaluation.pictures,
        problems=[*report.problems, *evaluation.problems, *evaluation.remarks],
        change_threshold=CHANGE_THRESHOLD,
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


def _part(name: str) -> str:
    """A file of this package: the page's template, its style, the viewer's markup."""
    return importlib.resources.files("sadm_ray.report").joinpath(name).read_text(encoding="utf-8")


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{_base64(png)}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
