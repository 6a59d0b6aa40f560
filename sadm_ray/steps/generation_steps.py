"""The step that generates volumes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sadm_ray.cluster import ray_session
from sadm_ray.config import Settings, flatten
from sadm_ray.data.shards.known_covariates import unknown_covariates
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.generate.bounds_wanted import check_bounds
from sadm_ray.generate.generation_job import Generation, generate_volumes
from sadm_ray.generate.generation_plan import decisive_facts, default_out, model_folders, place_of
from sadm_ray.generate.given_covariates import combinations, planned_of
from sadm_ray.generate.output_folder import refuse_out
from sadm_ray.generate.unprepared_study import SHARDS, prepare_like, refuse_before_preparing
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import StoredModel
from sadm_ray.run_lock import alone_in
from sadm_ray.steps.run_folder import alone_in_run, check_preparation, prepared_study, shards_folder, study_root
from sadm_ray.storage import Storage
from sadm_ray.tracking import tracked_step
from sadm_ray.train.checkpoint import checkpoints_folder
from sadm_ray.tune.tuned_settings import tuned_for

log = logging.getLogger(__name__)


@alone_in_run
def generate(settings: Settings) -> Generation:
    """Generate the requested frames, with the sweep's settings where there are any; run again, it does what is left.

    By default these are the frames of every task for the test subjects.
    """
    wanted, tuned = settings.generate, tuned_for(settings)
    sampling = settings.sampling if tuned is None else tuned.sampling
    out = wanted.out or default_out(settings)
    study = prepared_study(settings) if wanted.study is None else None
    folders = model_folders(settings)
    models = [StoredModel.read(folder, sampling.ema).recalibrated(sampling) for folder in folders]
    check_bounds(wanted, models)
    built = [model.build() for model in models]  # a damaged one is refused at once
    trained = built[0].config
    combinations(wanted.given, planned_of(model.config.model.covariates for model in built))  # refused at once
    if wanted.samples > len(built) and not any(model.varies(sampling) for model in built):
        log.warning(
            "no more than %d of the %d samples of a frame will differ: %s with sampling.num_steps=%d leaves nothing to "
            "chance (ours does from 2 on)",
            len(built), wanted.samples, trained.model.kind, sampling.num_steps,
        )  # fmt: skip
    if wanted.out is not None:
        refuse_out(out, _places(settings, folders), settings.run_dir)
    if study is None:  # refused before anything is prepared into the folder
        wanted = wanted.model_copy(update={"split": "all"})
        settings = settings.model_copy(update={"generate": wanted})
        facts = decisive_facts(settings, place_of(str(wanted.study)), [model.identity for model in models], sampling)
        if not wanted.replace:
            refuse_before_preparing(settings, trained, str(wanted.study), Storage(out), facts)
    with alone_in(out, "generate.out"), tracked_step(settings, "generate") as tracked, ray_session(settings):
        if study is None:
            study = prepare_like(settings, trained, str(wanted.study), Storage(out).where(SHARDS))
        for folder, model in zip(folders, built, strict=True):
            check_preparation(folder, model.config, study)
        tell_of_unknown(study, wanted.split, [model.config for model in built])
        tracked.tags(flatten(sampling, "sampling.") | {"out": out})  # parameters could not change
        generated = generate_volumes(settings, study, models, out, sampling, None if tuned is None else tuned.seen)
        tracked.metrics({"volumes": generated.volumes, "failures": len(generated.failures)})
        return generated


def tell_of_unknown(study: Study, split: str, models: Sequence[ModelConfig]) -> None:
    """Say which covariates of the models are not known of the subjects, or have values that the models do not know."""
    subjects = [name for key, names in study.subjects.items() if split in (key, "all") for name in names]
    covariates = list(dict.fromkeys(each for model in models for each in model.model.covariates))
    for line in unknown_covariates(study, subjects, covariates):
        log.warning("model.covariates: %s", line)


def _places(settings: Settings, models: Sequence[str]) -> dict[str, str]:
    """What volumes must not be written into, by what it is called."""
    scans = [study_root(settings), *([settings.generate.study] if settings.generate.study else [])]
    run = {
        f"the run's {name}": str(settings.run_dir / name)
        for name in ("compare", "evaluation", "model", "model.ray", "shards", "study", "sweeps", "tracking")
    }
    return {
        **run,
        **{f"the study {root}": root for root in scans},
        "the shards": shards_folder(settings),
        "the checkpoints": checkpoints_folder(settings),
        **{f"the model {folder}": folder for folder in models},
    }
