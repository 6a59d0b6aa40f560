"""The sweep of training settings: Ray Tune with Optuna and ASHA, each trial a training run on Ray Train."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ray import tune

from sadm_ray.cluster import warn_of_idle
from sadm_ray.config import Settings
from sadm_ray.config.renamed_settings import with_former_names
from sadm_ray.config.settings_file import dump_settings, with_values
from sadm_ray.data.shards.fingerprints import fingerprints, person_is_group
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import ConfigError, DataError, reason_of
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.progress import ProgressCounter, progress
from sadm_ray.tracking import TrackedRun, run_for_workers
from sadm_ray.tune.training_search import OBJECTIVES, early_stopping, optuna_search
from sadm_ray.tune.training_space import check_space, drawn_values, trial_settings
from sadm_ray.tune.training_trial import SCORES, TrainingTask, TrainingTrial
from sadm_ray.tune.trial_history import History

RETRIES = 1
"""How often a failed trial is repeated, beside the restarts of Ray Train itself."""


@dataclass(frozen=True)
class TrainingSweep:
    """The result of a sweep of training settings.

    Attributes:
        best: the base settings with the best values, as a new run on the same prepared study.
        trials: a row for each trial with a score: its name, the drawn values by dotted key, the objective at its last
            validation (`val_gain`: dB of PSNR over copy-last, whose own PSNR is `val_copy_last`), `steps` reached, and
            whether it was `stopped` early.
        subjects: the validation subjects.
        failures: a line for each trial that failed.
    """

    best: Settings
    trials: pd.DataFrame
    subjects: tuple[str, ...]
    failures: tuple[str, ...]


def tune_training(settings: Settings, study: Study, out: Path, tracked: TrackedRun) -> TrainingSweep:
    """Sweep training settings; the trials are scored on validation subjects, and the test subjects are not touched.

    The first trial is the settings themselves. Run again after an interruption, the sweep is resumed: trials that ended
    are kept, others go on from their checkpoints. With more `tune.training.trials` it is extended. Every trial becomes
    a child run of `tracked`.

    Args:
        out: folder for the history of the trials, and for their runs, in `trials`.

    Raises:
        ConfigError: `tune.training` has an invalid search space, or the start model was trained on a validation
            subject; nothing has started.
        DataError: there are no validation subjects, or no trial reached its last step.
    """
    check_space(settings)
    subjects = study.names("val")[: settings.train.validation.subjects]
    who = fingerprints(study, groups=person_is_group(study))
    _refuse_taught(settings, subjects, who)
    sweep, runs = settings.tune.training, out.absolute() / "trials"
    folder = out.absolute() / _sweep_name(settings, study)
    history = History(folder / "trials.jsonl")
    failures = _run(settings, study, runs, folder, history, tracked)
    if len(history.ended) + len(failures) < sweep.trials:
        raise KeyboardInterrupt  # Ray Tune swallows it
    rows: list[dict[str, Any]] = []
    for trial in history.ended:
        values, last = drawn_values(trial.point, sweep), trial.reports[-1]
        name = trial_settings(settings, values, study, runs).run.name
        scores = {key: last[key] for key in SCORES if key in last}
        rows.append({"trial": name, **scores, "stopped": not last["ended"], **values})
        _close(tracked.child(name), stopped=not last["ended"])
    trials = pd.DataFrame(rows)
    if not rows or trials["stopped"].all():
        raise DataError(f"{out}: no trial of the sweep came to its end; the first: {[*failures, 'stopped'][0]}")
    best = _best(trials, sweep.objective)
    chosen_on = {each for name in subjects for each in who[name]} | {*settings.train.chosen_on}
    named = {
        "run.name": f"{settings.run.name}-tuned",
        "data.shards": study.location,
        "train.chosen_on": sorted(chosen_on),
    }
    chosen = {key: best[key] for key in sweep.space}
    return TrainingSweep(with_values(settings, {**chosen, **named}), trials, tuple(subjects), tuple(failures))


def _refuse_taught(settings: Settings, subjects: Sequence[str], who: Mapping[str, frozenset[str]]) -> None:
    """Refuse to choose settings on those on whom the model of `train.start_from` was trained."""
    if settings.train.start_from is None:
        return
    seen = StoredModel.read(settings.train.start_from).seen
    known = [name for name in subjects if seen.seen_as(who[name]) == "train"]
    if known:
        raise ConfigError(
            f"train.start_from: {settings.train.start_from} was trained on {len(known)} of the {len(subjects)} "
            f"validation subjects ({known[0]}{', …' if len(known) > 1 else ''}), on whom the trainings are compared; "
            "take another split, or another start model"
        )


def write_tuned_training(file: Path, swept: TrainingSweep, base: Settings) -> None:
    """Write the best settings as a full settings file for `sadm-ray train`, with a comment on their origin."""
    sweep, trials = base.tune.training, swept.trials
    best = _best(trials, sweep.objective)
    if sweep.objective == "val_gain":
        score = (
            f"one sample is {best['val_gain']:+.2f} dB PSNR against copy-last ({best['val_copy_last']:.2f} dB) there"
        )
    else:
        score = f"the denoising loss is {best['val_loss']:.4g} there"
    head = (
        f"# Chosen by a sweep of {len(trials) + len(swept.failures)} trainings of {base.run.name}: "
        f"{int(trials['stopped'].sum())} were stopped early, {len(swept.failures)} failed.\n"
        f"# Judged on {len(swept.subjects)} validation subjects ({', '.join(swept.subjects)}) by {sweep.objective}:\n"
        f"# {score}, after {best['steps']} steps.\n"
        f"# Drawn: {', '.join(f'{key} {best[key]}' for key in sweep.space)}.\n"
    )
    new = file.with_suffix(".new")
    new.write_text(head + dump_settings(swept.best), encoding="utf-8")
    new.replace(file)


def _run(
    settings: Settings, study: Study, runs: Path, folder: Path, history: History, tracked: TrackedRun
) -> list[str]:
    """Run the trials that are remaining; returns a line for each that failed."""
    sweep = settings.tune.training
    remaining = sweep.trials - len(history.ended)
    if remaining <= 0:
        return []
    storage = folder / "ray"
    shutil.rmtree(storage, ignore_errors=True)  # of a sweep that was killed; its results are in the history
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are listed at the end, a line each
    warn_of_idle("tune.training.concurrent", sweep.concurrent, remaining, f"trials left: {remaining}")
    with progress("tune", remaining) as counter, run_for_workers(tracked) as remote:
        trainable = tune.with_parameters(TrainingTrial, task=TrainingTask(settings, study, runs, remote))
        results = tune.Tuner(
            # The workers of its training hold the CPUs, but Ray Tune requires some resource of a trial.
            tune.with_resources(trainable, {"memory": 1}),
            tune_config=tune.TuneConfig(
                num_samples=remaining,
                max_concurrent_trials=sweep.concurrent,
                search_alg=optuna_search(settings, history),
                scheduler=early_stopping(settings, history),
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(storage),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_TrainingCallback(history, counter, sweep.objective)],
                verbose=0,
            ),
        ).fit()
    return [_failure_line(drawn_values(result.config, sweep), result.error) for result in results if result.error]


class _TrainingCallback(tune.Callback):
    """Records the trials in the history, and the progress."""

    def __init__(self, history: History, counter: ProgressCounter, objective: str) -> None:
        self._history, self._counter, self._objective = history, counter, objective

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._history.start(trial.trial_id, dict(trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._history.report(trial.trial_id, {key: result[key] for key in (*SCORES, "ended") if key in result})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._history.end(trial.trial_id)
        last = self._history.of(trial.trial_id).reports[-1]
        how = "" if last["ended"] else f", stopped after step {last['steps']}"
        self._counter.add(1, f"{self._objective} {last[self._objective]:.4g}{how}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._counter.add(1, "failed")


def _close(child: TrackedRun, *, stopped: bool) -> None:
    """Finish a trial's run. A stopped trial sets the tag itself, but the sweep may end before that arrives."""
    if stopped:
        child.tags({"stopped_early": "true"})
    child.finish()


def _best(trials: pd.DataFrame, objective: str) -> dict[str, Any]:
    """The row of the best trial that reached its last step; stopped ones had fewer steps."""
    ended = [row for row in trials.to_dict("records") if not row["stopped"]]
    choose = max if OBJECTIVES[objective] == "max" else min
    return {str(key): value for key, value in choose(ended, key=lambda row: row[objective]).items()}


def _sweep_name(settings: Settings, study: Study) -> str:
    """A name from the digest of the settings, tasks and study, which identifies the sweep."""
    dumped = settings.model_dump(mode="json", include={"seed", "model", "diffusion", "train", "sampling", "tune"})
    named = with_former_names(dumped)
    sweep = {key: value for key, value in named.pop("tune")["training"].items() if key not in ("trials", "concurrent")}
    identity = {
        **named,
        "tasks": [task.model_dump(mode="json") for task in settings.generate.tasks],
        "tune": sweep,
        "study": study.digest,
    }
    return f"training-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]}"


def _failure_line(values: Mapping[str, Any], error: BaseException) -> str:
    """One line: the drawn values and the reason of the failure."""
    return f"{', '.join(f'{key} {value}' for key, value in values.items())}: {reason_of(error)}"
