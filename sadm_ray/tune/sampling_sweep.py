"""The sweep of sampling settings on a trained model: Ray Tune with Optuna or a grid, and ASHA."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from sadm_ray.cluster import require_shared
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import with_values
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.errors import ConfigError, DataError, reason_of
from sadm_ray.evaluate.sampling_quality import query_of, structure_can_be_scored
from sadm_ray.model.model_config import CONFIG
from sadm_ray.model.pretrained import load_model
from sadm_ray.progress import progress
from sadm_ray.tracking import TrackedRun
from sadm_ray.tune.sampling_callback import SamplingCallback
from sadm_ray.tune.sampling_search import early_stopping, trials_to_run
from sadm_ray.tune.sampling_trial import SamplingTask, sampling_trial
from sadm_ray.tune.sweep_result import SamplingSweep, result
from sadm_ray.tune.trial_history import History

RETRIES = 2
"""How often a trial that failed is begun again."""


def tune_sampling(settings: Settings, study: Study, model: Path, out: Path, tracked: TrackedRun) -> SamplingSweep:
    """Sweep the sampling settings on validation subjects; the test subjects are not touched.

    The first trials are the settings' own with each number of steps; the others are searched. Every
    trial becomes a child of `tracked`. A sweep of the same model and question goes on when it is run again: what it has
    scored is in `out`, and is not scored again. With more `tune.trials` it is made longer.

    Raises:
        ConfigError: an objective that needs a package that is not there, or `out` is not seen by all machines.
        DataError: no subject to ask, no such average of the weights, or every trial failed.
    """
    if "ssim" in settings.tune.objectives and not structure_can_be_scored():
        raise ConfigError("tune.objectives: ssim needs scikit-image; install sadm-ray[eval], or leave ssim out")
    averages = [load_model(model, ema=ema) for ema in settings.tune.ema]  # or a clear line, before any trial fails
    if not averages[0].is_guided:  # a rival that knows no guidance: every strength would do the same
        settings = with_values(settings, {"tune.guidance_scale": (0.0, 0.0)})
    names = study.names("val")[: settings.tune.subjects]
    rows = [read_subject(study, name) for name in names]
    _require_answers(settings, rows)
    folder = out / _sweep_name(settings, study, names, model)
    require_shared(str(folder), "run.dir", "a folder that all nodes share")
    work = SamplingTask(
        model=model.absolute(),
        scores=folder.absolute() / "scores",
        rows=rows,
        tasks=settings.generate.tasks,
        base=settings.sampling,
        tune=settings.tune,
        seed=settings.seed,
    )
    history = History(folder / "trials.jsonl")
    trainable = tune.with_parameters(sampling_trial, work=work)
    failures = sweep(trainable, settings, folder, len(rows), history, tracked)
    return result(history.ended, settings.sampling, settings.tune.objectives, names, failures)


def sweep(
    trainable: Any, settings: Settings, folder: Path, subjects: int, history: History, tracked: TrackedRun
) -> list[str]:
    """Run the trials that are left, and write into `history` what becomes of them.

    Args:
        trainable: a function of a config that reports as `sampling_trial` does.

    Returns:
        a line for each trial that failed, and failed again `RETRIES` times.
    """
    left, space, searcher = trials_to_run(settings.tune, settings.sampling, history, settings.seed)
    if not left:
        return []
    storage = folder.absolute() / "ray"
    shutil.rmtree(storage, ignore_errors=True)  # of a sweep that was killed; what counts is in the history
    with progress("tune", left) as reporter:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"CPU": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                num_samples=1 if searcher is None else left,
                max_concurrent_trials=settings.tune.concurrent,
                search_alg=searcher,
                scheduler=early_stopping(settings.tune, subjects, history),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(storage),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[SamplingCallback(history, tracked, reporter, settings.sampling, subjects)],
                verbose=0,
            ),
        )
        results = tuner.fit()
    return [reason_of(error) for error in results.errors]


def _require_answers(settings: Settings, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        for task in settings.generate.tasks:
            query = query_of(task, row)
            if query is not None and row["present"][list(query.targets)].any():
                return
    raise DataError("no validation subject has the frames of any of generate.tasks; there is nothing to compare with")


def _sweep_name(settings: Settings, study: Study, names: Sequence[str], model: Path) -> str:
    """A name that changes with the model, the subjects and the question, so that no other sweep is taken for this."""
    idle = {"sweep", "training", "trials", "concurrent", "subjects"}
    idle |= set() if settings.tune.search == "grid" else {"grid_points"}
    idle |= set() if settings.tune.reduction else {"first_subjects"}
    asked = {
        "tune": settings.tune.model_dump(mode="json", exclude=idle),
        "tasks": [task.model_dump(mode="json") for task in settings.generate.tasks],
        "sampling": settings.sampling.model_dump(mode="json", exclude={"guidance_split"}),
        "seed": settings.seed,
        "subjects": names,
        "study": study.content,
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    for file in [model / CONFIG, *sorted(model.glob("*.safetensors"))]:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"sweep-{digest.hexdigest()[:12]}"
