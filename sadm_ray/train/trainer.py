"""Runs a training with Ray Train's `TorchTrainer`."""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from sadm_ray.cluster import is_private, require_shared, warn_of_idle
from sadm_ray.config import Settings, flatten, is_url
from sadm_ray.data.shards.fingerprints import fingerprints, person_is_group, split_digest
from sadm_ray.data.shards.prepared_study import PREPARATION_SETTINGS, Study
from sadm_ray.errors import ConfigError, DataError, Stopped
from sadm_ray.interruption import AGAIN, CODES
from sadm_ray.model.base_model import WEIGHTS, ema_name
from sadm_ray.model.model_config import CONFIG, ModelConfig
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.model.registry import build_model, with_kind_defaults
from sadm_ray.model.seen_subjects import NOBODY, NOT_RECORDED, SeenSubjects
from sadm_ray.progress import workers_progress
from sadm_ray.storage import Storage
from sadm_ray.tracking import TrackedRun, run_for_workers
from sadm_ray.train.checkpoint import BEST, Checkpoint, Checkpoints, checkpoints_folder
from sadm_ray.train.resume_check import refuse_changes, refuse_foreign, require_begun
from sadm_ray.train.start_model import read_start_model, tell_of_taught
from sadm_ray.train.stop_signal import control
from sadm_ray.train.worker_loop import WorkerTask, train_worker

log = logging.getLogger(__name__)

_RESIZE_SECONDS = 30.0
"""How often an elastic run checks for room for another worker; each change costs a restart."""


@dataclass(frozen=True)
class TrainedModel:
    """The folder of the trained model (`model.pretrained.load_model`), and facts about it."""

    folder: Path
    facts: dict[str, Any]


def model_config(settings: Settings, study: Study) -> ModelConfig:
    """The model's config: the settings, completed with what was measured on the study."""
    model, together = settings.model, {"suffix"} if len(study.contrasts) > 1 else set()
    if model.difference_scale is None:
        if not study.difference_scale > 0:
            raise DataError(
                f"{study.location}: the frames of every training subject are equal; there is nothing to learn"
            )
        model = model.model_copy(update={"difference_scale": study.difference_scale})
    return with_kind_defaults(
        ModelConfig(
            shape=study.shape,
            channels=len(study.contrasts),
            model=model,
            diffusion=settings.diffusion,
            preparation=study.preparation,
            prepared=settings.data.model_dump(mode="json", include={*PREPARATION_SETTINGS, *together}),
            time_unit=study.time_unit,
        )
    )


def train_model(
    settings: Settings, study: Study, out: Path, tracked: TrackedRun, stop: threading.Event | None = None
) -> TrainedModel:
    """Train on the training subjects of the shards; run again, it resumes from the newest checkpoint.

    Args:
        out: folder for the trained model: of several averages, the one with the lowest validation loss.
        stop: set by another thread, it does what SIGTERM does, which only a process's main thread receives.

    Raises:
        ConfigError: a requested GPU is missing, storage is not seen by every node, settings differ from those that
            the run was begun with, or the model that it starts from does not go with it.
        DataError: training broke down, or its last checkpoint cannot be written.
        Stopped: SIGTERM, Ctrl-C, or `stop`; a checkpoint was saved.
    """
    study.names("train")  # raises if there are none
    config = model_config(settings, study)
    location = checkpoints_folder(settings)
    checkpoints = Checkpoints(location, warn=lambda line: None)  # the workers warn of damaged ones themselves
    newest = checkpoints.newest()
    if newest is not None:
        require_begun(checkpoints.storage)
    model = build_model(config)
    facts, start = model.describe(), read_start_model(settings, model) if newest is None else None
    del model  # before the training, which has its own
    decisive = refuse_changes(settings, study, config, checkpoints.storage)
    if newest is not None:
        refuse_foreign(newest.metadata, newest.storage.where(newest.folder), study)
    if start is not None:
        start.seen.write(checkpoints.storage)  # a run that is resumed does not need the start model any more
        tell_of_taught(study, start)
        tracked.tags({"start_from.digest": start.digest})
    changeable = {key: value for key, value in flatten(settings.train, "train.").items() if key not in decisive}
    tracked.params(facts | decisive | {"study.digest": study.digest})
    tracked.tags(changeable)  # tags, since these may change when the run is resumed, which MLflow's parameters cannot
    tracked.dataset(Path(study.location).name, study.content[:36], study.location, _dataset_profile(study))
    if newest is None or not _is_done(newest, settings):
        newest = _train(settings, study, config, location, tracked, stop, start)
    _export(newest, settings, study, out)
    results = {"step": newest.step, "epoch": newest.metadata["epoch"], **newest.metadata["validated"]}
    tracked.tags({"checkpoint": f"{newest.storage.where(newest.folder)}"})
    tracked.register(out, settings.run.name, {"digest": _model_digest(newest), "study": study.digest[:36]})
    return TrainedModel(out, facts | results)


def _train(
    settings: Settings,
    study: Study,
    config: ModelConfig,
    location: str,
    tracked: TrackedRun,
    stop: threading.Event | None,
    start: StoredModel | None,
) -> Checkpoint:
    use_gpu = _use_gpu(settings)
    require_shared(location, "train.storage", "a folder that all nodes share, or a URL")
    require_shared(study.location, "data.shards", "a folder that all nodes share, or a URL")
    train = settings.train
    _warn_of_idle_workers(settings, study)
    with (
        control(stop) as (controlled, signal_that_came),
        workers_progress("train", train.steps, controlled),
        run_for_workers(tracked, controlled) as remote,
    ):
        task = WorkerTask(settings, study, config, location, remote, controlled, controlled, start)
        trainer = Trainer(
            train_worker,
            train_loop_config={"task": task},
            scaling_config=ScalingConfig(
                num_workers=train.workers if train.min_workers is None else (train.min_workers, train.workers),
                use_gpu=use_gpu,
                elastic_resize_monitor_interval_s=_RESIZE_SECONDS,
            ),
            run_config=RunConfig(
                name="train",
                failure_config=FailureConfig(max_failures=train.max_failures),
                **_ray_storage(location),
            ),
        )
        try:
            _fit(trainer)
        except TrainingFailedError:
            if ray.get(controlled.failure.remote()) is None:
                raise
        failure = ray.get(controlled.failure.remote())
        stopping = ray.get(controlled.stopping.remote())
    if failure is not None:
        raise failure
    newest = Checkpoints(location).newest()
    if newest is None:
        raise RuntimeError("training ended without a checkpoint")
    came = signal_that_came()
    if came is not None or (stopping and not _is_done(newest, settings)):
        where = f"stopped after step {newest.step} of {train.steps}, which is saved"
        raise Stopped(f"{where}; {AGAIN}", CODES[came or signal.SIGTERM])
    if not _is_done(newest, settings):
        raise RuntimeError(f"training ended at step {newest.step} of {train.steps}")
    return newest


class Trainer(TorchTrainer):
    """Without actors of Ray Train that have nothing to do here, each of which is a process that imports for seconds.

    One deals out data sets of Ray Data, of which none is given to it: the workers read the shards themselves. One frees
    the workers' resources when the controller is lost. A Ray that is ours alone ends with this command, and its
    resources with it; and that actor may ask another Ray whether the controller lives, the one that the last `ray
    start` recorded: where that one is gone, the training waited 12 s at its end.
    """

    def _create_default_callbacks(self) -> list[Any]:
        idle = {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if is_private() else set())
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in idle]


def _fit(trainer: TorchTrainer) -> None:
    """In a thread of its own: in the main one Ray Train takes Ctrl-C for itself, then and ever after."""
    done: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=fit, name="train", daemon=True).start()
    done.result()


def _warn_of_idle_workers(settings: Settings, study: Study) -> None:
    """No worker is idle in a step: each has samples of its own, drawn from the same subject where there is but one."""
    train, checked = settings.train, settings.train.validation
    subjects = len(study.subjects.get("val", ())[: checked.subjects])
    if subjects and (checked.loss_every or checked.generate_every):
        warn_of_idle("train.workers", train.workers, subjects, f"validation subjects: {subjects}, at each validation")
    wanted, slots = train.min_workers or train.workers, ray.cluster_resources().get("CPU", 0)
    if slots < wanted:
        log.warning(
            "train.workers: %d workers want a CPU each, the cluster has %g; training begins when more machines come",
            wanted,
            slots,
        )


def is_trained(settings: Settings) -> bool:
    """Whether `train_model` would train no more; then it needs no Ray, and takes a moment."""
    newest = Checkpoints(checkpoints_folder(settings), warn=lambda line: None).newest()
    return newest is not None and _is_done(newest, settings)


def _is_done(newest: Checkpoint, settings: Settings) -> bool:
    return newest.step >= settings.train.steps or bool(newest.metadata["ended_early"])


def _ray_storage(location: str) -> dict[str, Any]:
    """Where Ray Train keeps its own files: beside our checkpoints."""
    system, path = Storage(location.rpartition("/")[0]).resolved
    return {"storage_path": path, "storage_filesystem": system if is_url(location) else None}


def _export(newest: Checkpoint, settings: Settings, study: Study, out: Path) -> None:
    """Write the model for use to `out`: the chosen average as model.safetensors, and each by its own name."""
    names = [ema_name(decay) for decay in settings.train.ema_decays]
    source = newest
    if settings.train.validation.patience is not None:
        source = Checkpoints(newest.storage.location).verified(BEST) or newest
    losses = {name: newest.metadata["validated"].get(f"val_loss/{name}", float("inf")) for name in names}
    chosen = min(names, key=losses.__getitem__)  # the first, where nothing was validated
    target = Storage(str(out))
    target.write(CONFIG, source.read(CONFIG))
    files = {f"{name}.safetensors": source.read(f"{name}.safetensors") for name in names}
    if len(names) > 1:
        for file, content in files.items():
            target.write(file, content)
    target.write(WEIGHTS, files[f"{chosen}.safetensors"])
    digests = [hashlib.sha256(content).hexdigest() for content in files.values()]
    _seen(newest, settings, study).write(target, digests)


def _seen(newest: Checkpoint, settings: Settings, study: Study) -> SeenSubjects:
    """Those whom the training has seen, of which its checkpoint is a witness; nobody where that is silent."""
    trained_on = newest.metadata["study"]
    if split_digest(study) != trained_on.get("split") and study.digest != trained_on["digest"]:
        log.warning(
            "%s: an earlier version wrote it, and the study was prepared again since: on whom the model was trained is "
            "not known, and nobody will count as its test subject; train again under another run.name",
            newest.storage.where(newest.folder),
        )
        return NOT_RECORDED
    who = fingerprints(study, groups=person_is_group(study))
    train, val = ([who[name] for name in study.subjects.get(split, ())] for split in ("train", "val"))
    before = NOBODY if settings.train.start_from is None else SeenSubjects.read(newest.storage)
    return SeenSubjects.of(train, val, before) | SeenSubjects(val=frozenset(settings.train.chosen_on))


def _dataset_profile(study: Study) -> dict[str, Any]:
    return {
        "subjects": {split: len(names) for split, names in study.subjects.items()},
        "frames": study.frames,
        "shape": list(study.shape),
        "time_unit": study.time_unit,
        "digest": study.digest,
    }


def _model_digest(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.step}-{checkpoint.metadata['study']['digest'][:16]}"


def _use_gpu(settings: Settings) -> bool:
    available, train = ray.cluster_resources().get("GPU", 0), settings.train
    wanted = train.min_workers or train.workers
    if train.device == "gpu" and available < wanted:
        raise ConfigError(
            f"train.device: {wanted} workers want a GPU each, the cluster has {available:g}; "
            "use device=cpu, device=auto or fewer workers"
        )
    return train.device != "cpu" and available >= wanted
