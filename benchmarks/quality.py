"""The quality of predictions of real hearts: cross-validation on ACDC by patient, with equal training steps.

    python -m benchmarks.quality data.root=/path/to/acdc run.dir=/where/it/goes      five folds, two trainings each
    python -m benchmarks.quality --folds 0 -- data.root=… run.dir=… train.steps=600    a quick look at one
    python -m benchmarks.quality --members 1 -- data.root=… run.dir=…                  one training each

All subjects that are not tested are trained on; there is no validation set. The settings are those of
`configs/acdc_small.yaml`, overridden by those on the command line. Finished runs are not repeated. All figures are of
subjects that were not trained on, averaged over the test subjects of a fold and then over folds; Δ is against copy-last
on the same frames (for imputation, also against linear interpolation).
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from benchmarks.figures import say
from sadm_ray import steps
from sadm_ray.cluster import ray_session
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import load_settings, with_values
from sadm_ray.evaluate.score_tables import COPY_LAST, INTERPOLATION, SAMPLE, by_subject, summarise_calibration

CONFIG = Path(__file__).parents[1] / "configs" / "acdc_small.yaml"
FOLDS = 5
TASKS = {"ed-to-es": 1, "three-to-es": 3, "rollout": 7}
"""The number of frames that each task of prediction observes."""
_REACH = {
    ("ed-to-es", "mean"): 2.5,
    ("ed-to-es", SAMPLE): 1.5,
    ("three-to-es", "mean"): 1.8,
    ("three-to-es", SAMPLE): 1.0,
}
_SECONDS_A_FRAME = 2.0


def main() -> None:
    """Print the figures of every fold, and of all folds together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--members", type=int, default=2, help="trainings among which a fold's samples are divided")
    parser.add_argument("settings", nargs="*", help="key=value, as for sadm-ray")
    options = parser.parse_args()
    found = []
    for fold in options.folds:
        split = [f"data.split.folds={FOLDS}", f"data.split.fold={fold}", "data.split.val=0"]
        names = [f"fold-{fold}" + f"-{member}" * (member > 0) for member in range(options.members)]
        found.append(_fold(*(
            load_settings(CONFIG, [*options.settings, *split, f"run.name={name}", f"train.seed={member}"])
            for member, name in enumerate(names)
        )))  # fmt: skip
        _print_figures(found[-1:], f"fold {fold}, ")
    _print_figures(found, "")


def _fold(settings: Settings, *others: Settings) -> dict[tuple[str, str, str], float]:
    """Figures by (task, method, score), of samples that are divided among trainings with these settings."""
    if others:
        models = [str(each.run_dir / "model") for each in others]
        out = str(settings.run_dir / f"generated-by-{1 + len(others)}")
        settings = with_values(settings, {"generate.out": out, "generate.ensemble": models})
    with ray_session(settings):
        study = steps.prepare(settings)
        start = time.monotonic()
        steps.train(settings)
        for each in others:
            steps.train(with_values(each, {"data.shards": study.location}))
        if settings.calibrate.folds and not others:
            steps.calibrate(settings)
        trained = time.monotonic() - start
        start = time.monotonic()
        generated = steps.generate(settings)
        seconds = (time.monotonic() - start) * settings.generate.actors
        evaluation = steps.evaluate(settings)
    figures = {("", "", "minutes of training"): trained / 60}
    if not generated.done_before:
        figures["", "", "CPU seconds a frame"] = seconds / len(evaluation.calibration)
    subjects = by_subject(evaluation.metrics)
    for key, rows in subjects.groupby(["task", "method"]):
        task, method = map(str, key)
        name = "mean" if method.startswith("mean of") else method  # the estimate and one sample by their own names
        scores = ("psnr", "psnr_changed", "ssim", "ssim_changed", "nrmse", "nrmse_changed")
        figures |= {(task, name, score): float(rows[score].mean()) for score in scores}
    for row in summarise_calibration(evaluation.calibration).to_dict("records"):
        figures[row["task"], "mean", "correlation"] = row["correlation"]
        figures[row["task"], "mean", "spread to error"] = row["spread"] / row["error"]
    figures |= _last_frame(evaluation.metrics)
    return figures


def _last_frame(metrics: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """PSNR at end-systole, which all tasks of prediction have as a target."""
    last = metrics[(metrics["frame"] == metrics["frame"].max()) & metrics["method"].str.startswith("mean of")]
    return {(task, "mean", "psnr of ES"): float(rows["psnr"].mean()) for task, rows in last.groupby("task")}


def _print_figures(folds: list[dict[tuple[str, str, str], float]], prefix: str) -> None:
    def mean(*key: str) -> float:
        return fmean(fold[key] for fold in folds if key in fold)

    def print_figure(name: str, value: float, unit: str, better: Any, reach: float | None = None) -> None:
        say(prefix + name, value, unit, better, reach)

    print_figure("minutes of training", mean("", "", "minutes of training"), "min", "lower", 60)
    if any(("", "", "CPU seconds a frame") in fold for fold in folds):
        print_figure("CPU seconds a frame", mean("", "", "CPU seconds a frame"), "s", "lower", _SECONDS_A_FRAME)
    for task in (*TASKS, "missing"):
        print_figure(f"{task}: copy-last, PSNR", mean(task, COPY_LAST, "psnr"), "dB", "higher")
        for method in (SAMPLE, "mean"):
            label = f"{task}: {'one sample' if method == SAMPLE else 'mean of samples'}"
            print_figure(f"{label}, PSNR", mean(task, method, "psnr"), "dB", "higher")
            gain = mean(task, method, "psnr") - mean(task, COPY_LAST, "psnr")
            print_figure(f"{label}, Δ PSNR", gain, "dB", "higher", _REACH.get((task, method)))
            changed = mean(task, method, "psnr_changed") - mean(task, COPY_LAST, "psnr_changed")
            print_figure(f"{label}, Δ PSNR of the changed region", changed, "dB", "higher")
            for score, sign in (("ssim", 1), ("nrmse", -1)):
                gain = sign * (mean(task, method, score) - mean(task, COPY_LAST, score))
                print_figure(f"{label}, {score.upper()} better than copy-last by", gain, "1", "higher", 0.0)
            if task == "missing":
                gain = mean(task, method, "psnr") - mean(task, INTERPOLATION, "psnr")
                print_figure(f"{label}, Δ PSNR to interpolation", gain, "dB", "higher", 1.0)
        print_figure(
            f"{task}: spread follows error, rank correlation", mean(task, "mean", "correlation"), "1", "higher", 0.5
        )
        print_figure(f"{task}: spread to error", mean(task, "mean", "spread to error"), "1", "higher")
    for fewer, more in pairwise(TASKS):
        gain = mean(more, "mean", "psnr of ES") - mean(fewer, "mean", "psnr of ES")
        print_figure(f"end-systole from {TASKS[more]} frames over {TASKS[fewer]}", gain, "dB", "higher", 0.0)


if __name__ == "__main__":
    main()
