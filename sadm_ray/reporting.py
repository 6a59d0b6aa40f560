"""Gathers what a run has left behind, in its folder and in MLflow, into its report."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from sadm_ray.config import SamplingSettings, Settings
from sadm_ray.config_file import dump_settings
from sadm_ray.data.study import Study
from sadm_ray.evaluate.launch import Evaluation
from sadm_ray.evaluate.objectives import OBJECTIVES
from sadm_ray.evaluate.pictures import draw_curves
from sadm_ray.evaluate.report import Report, Sweep, write_report
from sadm_ray.evaluate.sweep_pictures import draw_importance, draw_pareto
from sadm_ray.model.sadm import Sadm
from sadm_ray.tracking import step_history

PACKAGES = ("sadm-ray", "torch", "ray", "mlflow", "nibabel", "numpy")


def write_run_report(
    path: Path, settings: Settings, study: Study, evaluation: Evaluation, sampling: SamplingSettings, trials: Path
) -> None:
    """Write the report of a run.

    Args:
        sampling: how the volumes were drawn.
        trials: the table of the sweep (CSV), which may be missing.
    """
    counts = ", ".join(f"{len(names)} to {_PURPOSE[split]}" for split, names in study.subjects.items())
    report = Report(
        title=settings.run.name,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        evaluation=evaluation,
        summary=[
            f"{'The phantom' if settings.data.root is None else settings.data.root}: {counts}.",
            "All scores are of test subjects, which neither the training nor the sweep has seen.",
        ],
        curves=_curves(settings),
        sweep=_sweep(settings, study, trials),
        problems=[*study.problems, *study.warnings],
        settings_yaml=dump_settings(settings),
        versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        facts=_facts(settings, study, sampling),
    )
    write_report(path, report)


_PURPOSE = {"train": "train on", "val": "choose settings on", "test": "test on"}


def _sweep(settings: Settings, study: Study, file: Path) -> Sweep | None:
    objective = settings.tune.objectives[0]
    if not file.exists():
        return None
    trials = pd.read_csv(file)
    if objective not in trials:  # the settings are not those of the sweep any more
        return None
    worth = trials[objective] * (1.0 if OBJECTIVES[objective][0] == "max" else -1.0)
    # A trial that was stopped early saw fewer subjects: its scores are not to be held against the others'.
    order = trials.assign(worth=worth).sort_values(["stopped", "worth"], ascending=[True, False]).index
    most = int(trials["subjects"].max())
    return Sweep(
        trials=trials.loc[order],
        subjects=study.subjects["val"][:most],
        pareto_png=draw_pareto(trials, objective),
        importance_png=draw_importance(trials, objective),
    )


def _curves(settings: Settings) -> dict[str, bytes]:
    loss = step_history(settings, "train", "loss")
    if not loss:
        return {}
    return {"Training loss (mean squared error of v)": draw_curves({"loss": loss}, "loss", log=True)}


def _facts(settings: Settings, study: Study, sampling: SamplingSettings) -> dict[str, str]:
    model = Sadm.from_pretrained(settings.run_dir / "model")
    facts = {key.replace("_", " "): f"{value:,}" for key, value in model.describe().items()}
    return facts | {
        "target": model.config.model.target,
        "training steps": f"{settings.train.steps} of batch {settings.train.batch_size}",
        "grid": " × ".join(map(str, study.shape)) + (f", {study.frames} frames" if study.frames else ", all visits"),
        "time": study.time_unit,
        "study digest": study.digest[:16],
        "sampling": ", ".join(f"{key} {value}" for key, value in sampling.model_dump().items()),
    }
