"""Ray Tune's callback of a sampling sweep: writes the history, MLflow and the progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import tune

from sadm_ray.config import SamplingSettings
from sadm_ray.evaluate.sweep_objectives import OBJECTIVES
from sadm_ray.progress import ProgressCounter
from sadm_ray.tracking import TrackedRun
from sadm_ray.tune.sampling_space import point_of, trial_sampling
from sadm_ray.tune.trial_history import History, Report

SCORES = (
    *OBJECTIVES,
    "psnr",
    "copy_last",
    "psnr_changed",
    "copy_last_changed",
    "spread_ratio",
    "copy_last_dice",
    "subjects",
    "seconds",
)


class SamplingCallback(tune.Callback):
    """Records the trials. Runs in the driver only, since many writers would block each other in a sqlite store."""

    def __init__(
        self, history: History, tracked: TrackedRun, counter: ProgressCounter, base: SamplingSettings, subjects: int
    ) -> None:
        self._history, self._tracked, self._counter = history, tracked, counter
        self._base, self._subjects = base, subjects

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._history.start(trial.trial_id, point_of(trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._history.report(trial.trial_id, scores_of(result))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ended = self._history.of(trial.trial_id)
        report = ended.reports[-1]
        stopped = report["subjects"] < self._subjects
        child = self._tracked.child(ended.name)
        child.params(trial_sampling(ended.point, self._base).model_dump())
        child.metrics(report)
        child.tags({"stopped_early": str(stopped).lower()})
        child.finish()
        # Last: if the sweep is killed before, the trial is repeated from its stored scores, under the same name.
        self._history.end(trial.trial_id)
        note = f"stopped after {report['subjects']} subjects" if stopped else f"{report['gain']:+.2f} dB over copy-last"
        self._counter.add(1, note)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._counter.add(1, "failed")


def scores_of(result: Mapping[str, Any]) -> Report:
    """The trial's own scores, without what Ray Tune adds."""
    return {key: result[key] for key in result if key in SCORES or key.startswith("gain.")}
