"""Gathers the results of a run, from its folder and from MLflow, into its report."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from sadm_ray.config import SamplingSettings, Settings
from sadm_ray.config.settings_file import dump_settings
from sadm_ray.data.shards.fingerprints import fingerprints
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.evaluate.evaluation_job import Evaluation
from sadm_ray.evaluate.prediction_plots import draw_curves
from sadm_ray.evaluate.score_tables import verdicts
from sadm_ray.evaluate.sweep_objectives import OBJECTIVES
from sadm_ray.evaluate.sweep_plots import draw_importance, draw_pareto
from sadm_ray.evaluate.who_is_scored import who_is_scored
from sadm_ray.generate.generation_plan import model_folder
from sadm_ray.model.pretrained import load_model
from sadm_ray.model.seen_subjects import SeenSubjects
from sadm_ray.report.cards import Card, data_card, model_card
from sadm_ray.report.html_page import ComparisonSection, Report, SweepSection, write_report
from sadm_ray.report.representative_subjects import representatives
from sadm_ray.report.viewer import build_viewer
from sadm_ray.report.volume_curves import volumes_section

PACKAGES = ("sadm-ray", "torch", "ray", "mlflow", "nibabel", "numpy")


BESIDE = {
    "generated volumes (NIfTI)": "generated",
    "table of metrics": "evaluation/table.csv",
    "metrics of every frame": "evaluation/metrics.csv",
    "calibration": "evaluation/calibration.csv",
    "consistency in time": "evaluation/temporal.csv",
    "structures of every frame": "evaluation/structures.csv",
    "volumes with intervals": "generated/volumes-summary.csv",
    "derived numbers": "generated/derived.csv",
    "trials of the sweep": "sweeps/trials.csv",
}
"""Files and folders that the page links to where they exist beside it."""


def write_run_report(
    path: Path,
    settings: Settings,
    study: Study,
    evaluation: Evaluation,
    sampling: SamplingSettings,
    trials: Path,
    chosen_on: SeenSubjects | None,
    predictions: Path | str,
    losses: Sequence[tuple[int, float]],
    comparisons: Sequence[ComparisonSection] = (),
    title: str | None = None,
) -> None:
    """Write the report of a run.

    Args:
        sampling: how the volumes were drawn.
        trials: the table of the sweep (CSV), which may be missing.
        chosen_on: those on whom that sweep chose `sampling`; None: it did not.
        predictions: the generation's folder of Parquet files or its URL, one a subject: the viewer shows some of them.
        losses: of the training, by step; empty where the model is another run's.
        comparisons: with other models.
        title: of the page; none: the run's name.
    """
    name = _study_name(settings)
    counts = ", ".join(f"{len(names)} to {_PURPOSE[split]}" for split, names in study.subjects.items())
    report = Report(
        title=title or settings.run.name,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        evaluation=evaluation,
        summary=[f"Study: {name}; {counts}.", *who_is_scored(evaluation)],
        comparisons=comparisons,
        viewer=build_viewer(study, predictions, evaluation.metrics),
        volumes=volumes_section(
            str(predictions),
            evaluation.structures,
            representatives(evaluation.metrics),
            study.time_unit,
            settings.generate.derived,
        ),
        curves=_curves(losses),
        sweep=None if chosen_on is None else _sweep(settings, study, chosen_on, trials),
        problems=[*study.problems, *study.warnings],
        settings_yaml=dump_settings(settings),
        versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        cards=_cards(settings, study, evaluation, sampling),
        links={name: quote(beside) for name, beside in BESIDE.items() if (path.parent / beside).exists()},
    )
    write_report(path, report)


_PURPOSE = {"train": "train on", "val": "choose settings on", "test": "test on"}


def _sweep(settings: Settings, study: Study, chosen_on: SeenSubjects, file: Path) -> SweepSection | None:
    objective = settings.tune.objectives[0]
    if not file.exists():
        return None
    trials = pd.read_csv(file)
    if objective not in trials:  # the settings are not those of the sweep any more
        return None
    worth = trials[objective] * (1.0 if OBJECTIVES[objective][0] == "max" else -1.0)
    # A trial that was stopped early saw fewer subjects: its scores cannot be compared with the others'.
    order = trials.assign(worth=worth).sort_values(["stopped", "worth"], ascending=[True, False]).index
    return SweepSection(
        trials=trials.loc[order],
        subjects=[name for name, who in fingerprints(study).items() if chosen_on.seen_as(who) == "val"],
        pareto_png=draw_pareto(trials, objective),
        importance_png=draw_importance(trials, objective),
    )


def _curves(losses: Sequence[tuple[int, float]]) -> dict[str, bytes]:
    if not losses:
        return {}
    return {"Training loss (mean squared error of v)": draw_curves({"loss": losses}, "loss", log=True)}


def _cards(settings: Settings, study: Study, evaluation: Evaluation, sampling: SamplingSettings) -> list[Card]:
    model, name = load_model(model_folder(settings), ema=sampling.ema), _study_name(settings)
    return [
        data_card(study, name, settings.data),
        model_card(
            model,
            evaluation.seen,
            settings.train if settings.generate.model is None else None,
            sampling,
            verdicts(evaluation.table),
            1 + len(settings.generate.ensemble),
        ),
    ]


def _study_name(settings: Settings) -> str:
    return "the phantom" if settings.data.root is None else settings.data.root
