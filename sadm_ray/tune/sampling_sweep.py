"""The sweep of sampling settings of a trained model: Ray Tune with Optuna or a grid, and ASHA."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from sadm_ray.cluster import require_shared, warn_of_idle
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import with_values
from sadm_ray.data.find.label_files import LabelFiles
from sadm_ray.data.label_maps import labels_of
from sadm_ray.data.shards.fingerprints import fingerprints, person_is_group
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.errors import ConfigError, DataError, reason_of
from sadm_ray.evaluate.sampling_quality import query_of, structure_can_be_scored
from sadm_ray.evaluate.structure_objectives import STRUCTURE_OBJECTIVES, LabelledTruth
from sadm_ray.model.base_model import SequenceModel
from sadm_ray.model.model_config import CONFIG
from sadm_ray.model.pretrained import StoredModel, load_model
from sadm_ray.model.seen_subjects import SeenSubjects
from sadm_ray.progress import progress
from sadm_ray.tracking import TrackedRun
from sadm_ray.tune.sampling_callback import SamplingCallback
from sadm_ray.tune.sampling_search import early_stopping, trials_to_run
from sadm_ray.tune.sampling_trial import SamplingTask, sampling_trial
from sadm_ray.tune.sweep_result import SamplingSweep, summarise_trials
from sadm_ray.tune.trial_history import History

RETRIES = 2
"""How often a failed trial is repeated."""


def tune_sampling(settings: Settings, study: Study, model: Path, out: Path, tracked: TrackedRun) -> SamplingSweep:
    """Sweep the sampling settings on validation subjects; the test subjects are not touched.

    The first trials are the settings themselves with every number of steps; the others are searched. Every trial is a
    child run of `tracked`. Run again with the same model, subjects and tasks, the sweep is resumed with the scores in
    `out`. With more `tune.trials` it is extended.

    Raises:
        ConfigError: an objective needs a package that is not installed, or label maps that validation subjects do not
            have, `out` is not seen by all machines, or the model was trained on a validation subject.
        DataError: no validation subject has a target, an average of the weights is missing, or every trial failed.
    """
    if "ssim" in settings.tune.objectives and not structure_can_be_scored():
        raise ConfigError("tune.objectives: ssim needs scikit-image; install sadm-ray[eval], or leave ssim out")
    models = [load_model(model, ema=ema) for ema in settings.tune.ema]  # raises before any trial starts
    stored = StoredModel.read(model)
    if not models[0].is_guided:  # a baseline without guidance: no strength has an effect
        settings = with_values(settings, {"tune.guidance_scale": (0.0, 0.0)})
    names = study.names("val")[: settings.tune.subjects]
    chosen_on = _refuse_trained_on(study, names, stored)
    rows = [read_subject(study, name) for name in names]
    _require_targets(settings, rows)
    labels = _labels_wanted(settings, study, rows, models[0])
    folder = out / _sweep_name(settings, study, names, model, labels)
    require_shared(str(folder), "run.dir", "a folder that all nodes share")
    sampling_task = SamplingTask(
        model=model.absolute(),
        scores=folder.absolute() / "scores",
        rows=rows,
        tasks=settings.generate.tasks,
        base=settings.sampling,
        tune=settings.tune,
        seed=settings.seed,
        labels=labels,
    )
    history = History(folder / "trials.jsonl")
    trainable = tune.with_parameters(sampling_trial, sampling_task=sampling_task)
    failures = run_trials(trainable, settings, folder, len(rows), history, tracked)
    swept = summarise_trials(history.ended, settings.sampling, settings.tune.objectives, names, failures)
    return replace(swept, model=stored.digest, seen=chosen_on)


def run_trials(
    trainable: Any, settings: Settings, folder: Path, subjects: int, history: History, tracked: TrackedRun
) -> list[str]:
    """Run the trials that are left, and record them in `history`.

    Args:
        trainable: a function of a config that reports as `sampling_trial` does.

    Returns:
        a line for each trial that failed, also after `RETRIES` retries.
    """
    remaining, space, searcher = trials_to_run(settings.tune, settings.sampling, history, settings.seed)
    if not remaining:
        return []
    storage = folder.absolute() / "ray"
    shutil.rmtree(storage, ignore_errors=True)  # of a sweep that was killed; its results are in the history
    warn_of_idle("tune.concurrent", settings.tune.concurrent, remaining, f"trials left: {remaining}")
    with progress("tune", remaining) as counter:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"CPU": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                num_samples=1 if searcher is None else remaining,
                max_concurrent_trials=settings.tune.concurrent,
                search_alg=searcher,
                scheduler=early_stopping(settings.tune, subjects, history),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(storage),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[SamplingCallback(history, tracked, counter, settings.sampling, subjects)],
                verbose=0,
            ),
        )
        results = tuner.fit()
    return [reason_of(error) for error in results.errors]


def _refuse_trained_on(study: Study, names: Sequence[str], model: StoredModel) -> SeenSubjects:
    """Refuse to choose settings on those whom the model knows already; returns the validation subjects as seen."""
    who = fingerprints(study, groups=person_is_group(study))
    known = [name for name in names if model.seen.seen_as(who[name]) == "train"]
    if known:
        raise ConfigError(
            f"{study.location}: the model was trained on {len(known)} of the {len(names)} validation subjects "
            f"({known[0]}{', …' if len(known) > 1 else ''}): this is another split than its own; take another run.name "
            "for another split"
        )
    return SeenSubjects.of([], [who[name] for name in names])


def _require_targets(settings: Settings, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        for task in settings.generate.tasks:
            query = query_of(task, row)
            if query is not None and row["present"][list(query.targets)].any():
                return
    raise DataError("no validation subject has the frames of any of generate.tasks; there is nothing to compare with")


def _labels_wanted(
    settings: Settings, study: Study, rows: Sequence[Mapping[str, Any]], model: SequenceModel
) -> LabelFiles | None:
    """The label maps, where an objective is of structures; None where none is."""
    wanted = [name for name in settings.tune.objectives if name in STRUCTURE_OBJECTIVES]
    if not wanted:
        return None
    if model.spread is None:
        raise ConfigError(
            f"tune.objectives: {wanted[0]} is of moved label maps, and this model does not move frames "
            "(model.target: motion, model.motion_modes); leave it out"
        )
    labels = labels_of(study)
    for row in rows if labels and labels.found else ():
        truth = LabelledTruth(row, labels)
        queries = [query_of(task, row) for task in settings.generate.tasks]
        if any(query is not None and truth.has(query) for query in queries):
            return labels
    raise ConfigError(
        f"tune.objectives: {wanted[0]} needs a validation subject with label maps of an observed scan and of a target "
        f"of generate.tasks, and {'none of these has them' if labels and labels.found else 'the study has none'}; "
        "leave it out, or give label maps (`sadm-ray inspect` lists who has which)"
    )


def _sweep_name(
    settings: Settings, study: Study, names: Sequence[str], model: Path, labels: LabelFiles | None = None
) -> str:
    """A name from the digest of the model, the subjects, the tasks and the settings, which identifies the sweep."""
    ignored = {"sweep", "training", "trials", "concurrent", "subjects"}
    ignored |= set() if settings.tune.search == "grid" else {"grid_points"}
    ignored |= set() if settings.tune.reduction else {"first_subjects"}
    identity = {
        "tune": settings.tune.model_dump(mode="json", exclude=ignored),
        "tasks": [task.model_dump(mode="json") for task in settings.generate.tasks],
        "sampling": settings.sampling.model_dump(mode="json", exclude={"guidance_split"}),
        "seed": settings.seed,
        "subjects": names,
        "study": study.content,
    }
    if labels is not None:
        identity["labels"] = sorted((its.file, its.size) for files in labels.found.values() for its in files)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for file in [model / CONFIG, *sorted(model.glob("*.safetensors"))]:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"sweep-{digest.hexdigest()[:12]}"
