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
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from benchmarks.figures import say
from benchmarks.sample_classifier import told_apart_in
from sadm_ray import steps
from sadm_ray.cluster import ray_session
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import load_settings, with_values
from sadm_ray.evaluate.sample_likeness import COHERENCE, ERROR_COHERENCE, LAGS, LIKENESS, POWER
from sadm_ray.evaluate.score_tables import (
    COPY_LAST,
    ESTIMATE,
    INTERPOLATION,
    SAMPLE,
    by_subject,
    summarise_calibration,
)
from sadm_ray.generate.generation_record import PREDICTIONS

CONFIG = Path(__file__).parents[1] / "configs" / "acdc_small.yaml"
FOLDS = 5
TASKS = {"ed-to-es": 1, "three-to-es": 3, "rollout": 7}
"""The number of frames that each task of prediction observes."""
_GAIN = {"ed-to-es": 3.0, "three-to-es": 2.1, "rollout": 2.2}
"""What the estimate should be ahead of copy-last by, in dB."""
_GAIN_TO_INTERPOLATION, _LARGEST_CRPS, _LARGEST_AREA = 1.0, 0.68, 0.75
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
        scores = ("psnr", "psnr_changed", "ssim", "nrmse", "crps_changed", "mae_changed")
        figures |= {(task, name, score): float(rows[score].mean()) for score in scores}
    for row in summarise_calibration(evaluation.calibration).to_dict("records"):
        judged = ("correlation", "coverage_50", "coverage_90", "bounds_hold", *LIKENESS)
        figures |= {(row["task"], "samples", score): float(row[score]) for score in judged}
        figures[row["task"], "samples", "spread to error"] = row["spread"] / row["error"]
    for name_of_task, rows in evaluation.calibration.groupby("task"):
        task, names = str(name_of_task), sorted(set(rows["subject"]))
        area = told_apart_in(study, f"{generated.folder}/{PREDICTIONS}", names, task)
        figures[task, "samples", "told apart"] = area
    return figures | _last_frame(evaluation.metrics)


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
        for method, label in ((ESTIMATE, "estimate"), (SAMPLE, "one sample"), ("mean", "mean of samples")):
            gain = mean(task, method, "psnr") - mean(task, COPY_LAST, "psnr")
            reach = _GAIN.get(task) if method == ESTIMATE else None
            print_figure(f"{task}: {label}, Δ PSNR", gain, "dB", "higher", reach)
            changed = mean(task, method, "psnr_changed") - mean(task, COPY_LAST, "psnr_changed")
            print_figure(f"{task}: {label}, Δ PSNR of the changed region", changed, "dB", "higher")
            if task == "missing":
                gain = mean(task, method, "psnr") - mean(task, INTERPOLATION, "psnr")
                reach = _GAIN_TO_INTERPOLATION if method == ESTIMATE else None
                print_figure(f"{task}: {label}, Δ PSNR to interpolation", gain, "dB", "higher", reach)
        for score, sign in (("ssim", 1), ("nrmse", -1)):
            gain = sign * (mean(task, ESTIMATE, score) - mean(task, COPY_LAST, score))
            print_figure(f"{task}: estimate, {score.upper()} better than copy-last by", gain, "1", "higher", 0.0)
        _print_samples(task, mean, print_figure)
    for fewer, more in pairwise(TASKS):
        gain = mean(more, "mean", "psnr of ES") - mean(fewer, "mean", "psnr of ES")
        print_figure(f"end-systole from {TASKS[more]} frames over {TASKS[fewer]}", gain, "dB", "higher", 0.0)


def _print_samples(task: str, mean: Callable[..., float], print_figure: Callable[..., None]) -> None:
    """Whether the samples of a task are draws. The reach of a figure that should lie near a value is that value."""
    crps, error = mean(task, "mean", "crps_changed"), mean(task, ESTIMATE, "mae_changed")
    print_figure(f"{task}: fair CRPS, changed region", crps, "1", "lower")
    print_figure(f"{task}: fair CRPS to the estimate's absolute error", crps / error, "1", "lower", _LARGEST_CRPS)
    for score, label, wanted in (
        ("spread to error", "spread to error", 1.0),
        ("coverage_50", "50 % interval of the samples holds", 0.5),
        ("coverage_90", "90 % interval of the samples holds", 0.9),
        ("bounds_hold", "calibrated 90 % bounds hold", 0.9),
        ("correlation", "spread follows error, rank correlation", 0.5),
    ):
        print_figure(f"{task}: {label}", mean(task, "samples", score), "1", "higher", wanted)
    for lag, ours, ideal in zip(LAGS, COHERENCE, ERROR_COHERENCE, strict=True):
        apart = mean(task, "samples", ours) - mean(task, "samples", ideal)
        label = f"{task}: autocorrelation at {lag} voxels, (sample − estimate) less (truth − estimate)"
        print_figure(label, apart, "1", "lower", 0.0)
    label = f"{task}: area under the curve of a classifier of sample and scan"
    print_figure(label, mean(task, "samples", "told apart"), "1", "lower", _LARGEST_AREA)
    for band, score in enumerate(POWER, start=1):
        print_figure(f"{task}: power of one sample, band {band}", mean(task, "samples", score), "dB", "higher", 0.0)


if __name__ == "__main__":
    main()
