"""The sweep of sampling settings on a trained model: Ray Tune with Optuna."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch
import yaml
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from sadm_ray.config import SamplingSettings, Settings
from sadm_ray.data.study import Study, read_subject
from sadm_ray.evaluate.quality import sampling_quality
from sadm_ray.model.sadm import WEIGHTS, Sadm
from sadm_ray.progress import Reporter, progress
from sadm_ray.tracking import TrackedRun
from sadm_ray.tune.spaces import chosen_sampling, network_calls, plain_choices, sampling_space

METRIC = "gain"


@dataclass(frozen=True)
class Swept:
    """The best settings, on which subjects they were chosen, and every trial (one row each)."""

    best: SamplingSettings
    subjects: tuple[str, ...]
    trials: pd.DataFrame


def tune_sampling(settings: Settings, study: Study, model: Path, out: Path, tracked: TrackedRun) -> Swept:
    """Sweep sampler, steps, guidance and stochasticity on validation subjects; the test subjects are not touched.

    The first trials are the settings' own with each number of steps and no guidance; the others are searched.

    An interrupted sweep of the same model and space goes on when it is run again. Every trial becomes a child of
    `tracked`. The best by PSNR over copy-last wins; of equally good ones (0.01 dB), the one with fewer network calls.
    """
    rows = [read_subject(study, name) for name in study.names("val")[: settings.tune.subjects]]
    name = _sweep_name(settings, model)
    with progress("tune", settings.tune.trials) as reporter:
        trainable = tune.with_resources(
            tune.with_parameters(_trial, model=model, rows=rows, settings=settings, reporter=reporter),
            {"CPU": 1},
        )
        results = _tuner(settings, trainable, out, name, tracked).fit()
    failed = [str(error) for error in results.errors]
    if len(failed) == len(results):
        raise RuntimeError(f"every trial of the sweep failed; the first: {failed[0]}")
    good = [(result.config, result.metrics) for result in results if not result.error]
    trials = pd.DataFrame(
        [{**chosen_sampling(config, settings.sampling).model_dump(), **_scores(metrics)} for config, metrics in good]
    )
    near = trials[trials[METRIC] >= trials[METRIC].max() - 0.01]
    winner = near.sort_values(["network_calls", METRIC], ascending=[True, False]).iloc[0]
    best = SamplingSettings.model_validate({key: winner[key] for key in SamplingSettings.model_fields})
    return Swept(best, tuple(row["subject"] for row in rows), trials)


def write_tuned(file: Path, swept: Swept) -> None:
    """The settings as a file, with a note of where they come from."""
    score = swept.trials[METRIC].max()
    head = (
        f"# Chosen by a sweep of {len(swept.trials)} trials on {len(swept.subjects)} validation subjects "
        f"({', '.join(swept.subjects)}):\n# one sample is {score:+.2f} dB PSNR against copy-last there.\n"
    )
    new = file.with_suffix(".new")
    new.write_text(head + yaml.safe_dump({"sampling": swept.best.model_dump()}, sort_keys=False), encoding="utf-8")
    new.replace(file)


def _tuner(settings: Settings, trainable: Any, out: Path, name: str, tracked: TrackedRun) -> tune.Tuner:
    if tune.Tuner.can_restore(str(out / name)):
        return tune.Tuner.restore(str(out / name), trainable, resume_unfinished=True, restart_errored=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = OptunaSearch(
        metric=METRIC,
        mode="max",
        seed=settings.seed,
        points_to_evaluate=plain_choices(settings.tune, settings.sampling),
    )
    return tune.Tuner(
        trainable,
        param_space=sampling_space(settings.tune),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=settings.tune.trials,
            search_alg=ConcurrencyLimiter(search, max_concurrent=settings.tune.concurrent),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name=name, storage_path=str(out), verbose=0, callbacks=[_TrialsToMlflow(tracked)]),
    )


def _trial(
    config: dict[str, Any], model: Path, rows: list[dict[str, Any]], settings: Settings, reporter: Reporter
) -> None:
    torch.set_num_threads(1)
    sampling = chosen_sampling(config, settings.sampling)
    scores = sampling_quality(_model(model), rows, settings.generate.tasks, sampling, settings.seed)
    reporter.add.remote(1, f"{scores[METRIC]:+.2f} dB over copy-last")
    tune.report({**scores, "network_calls": network_calls(sampling)})


@lru_cache(maxsize=1)
def _model(folder: Path) -> Sadm:
    """Loaded once an actor, not once a trial."""
    return Sadm.from_pretrained(folder)


class _TrialsToMlflow(tune.Callback):
    """Each finished trial as a child run, written by the driver alone: many writers would crowd a sqlite store."""

    def __init__(self, tracked: TrackedRun) -> None:
        self._tracked = tracked

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        child = self._tracked.child(trial.trial_id)
        child.params(trial.config)
        child.metrics(_scores(trial.last_result))
        child.finish()


def _sweep_name(settings: Settings, model: Path) -> str:
    """A name that changes with the model and the question, so that an old sweep is not taken for this one."""
    asked = (settings.tune, settings.generate, settings.sampling)
    question = "".join(section.model_dump_json() for section in asked) + str(settings.seed)
    digest = hashlib.sha256((model / WEIGHTS).read_bytes() + question.encode())
    return f"sweep-{digest.hexdigest()[:12]}"


def _scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What `_trial` reported, without what Ray Tune adds."""
    named = ("psnr", "copy_last", "network_calls")
    return {key: metrics[key] for key in metrics if key in named or key.startswith(METRIC)}
