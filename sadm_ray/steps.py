"""The steps of a run as functions of the settings: what the command line and the pipelines call.

Every step reads what the one before left in the run's folder and writes its own place in it:

    study/        the phantom's NIfTI, when no study is given
    shards/       Parquet by split, and _study.json
    model/        the trained model; model.ray/ has its checkpoints (unless `train.storage` names a place)
    tuned.yaml    the best sampling settings, tuned-training.yaml those of training; sweeps/ has trials and figures
    generated/    NIfTI and predictions; generated-…/ those of other requests
    evaluation/   metrics and tables
    compare/      the trainings of a comparison, its tables and its report
    report.html   tracking.json   mlflow.db (unless another store is set)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from sadm_ray.cluster import ray_session, require_shared
from sadm_ray.compare.comparison_job import ComparisonResult, compare_models, write_compared
from sadm_ray.compare.statistics import SCORES
from sadm_ray.config import SamplingSettings, Settings, flatten
from sadm_ray.data.inspect.inspection import Inspection, inspect_study
from sadm_ray.data.phantom import write_phantom
from sadm_ray.data.shards.prepare import prepare_study
from sadm_ray.data.shards.prepared_study import STUDY_FILE, Study, data_digest, read_study
from sadm_ray.errors import ConfigError, DataError
from sadm_ray.evaluate.evaluation_job import Evaluation, evaluate_predictions
from sadm_ray.generate.generation_job import Generation, generate_volumes
from sadm_ray.generate.generation_plan import decisive_facts, default_out, model_folder, model_folders, place_of
from sadm_ray.generate.generation_record import PREDICTIONS
from sadm_ray.generate.output_folder import refuse_out
from sadm_ray.generate.unprepared_study import SHARDS, prepare_like, refuse_before_preparing
from sadm_ray.model.model_config import ModelConfig
from sadm_ray.model.pretrained import StoredModel, load_model
from sadm_ray.report.html_page import ComparisonSection
from sadm_ray.report.run_report import write_run_report
from sadm_ray.storage import Storage
from sadm_ray.tracking import step_history, tracked_step
from sadm_ray.train.dry_run import DryRun
from sadm_ray.train.dry_run import estimate as estimate_training
from sadm_ray.train.trainer import TrainedModel, checkpoints_folder, train_model
from sadm_ray.train.validation_tasks import check_tasks, check_validation_tasks
from sadm_ray.tune.sampling_sweep import tune_sampling
from sadm_ray.tune.sweep_result import SamplingSweep, write_trials, write_tuned
from sadm_ray.tune.training_sweep import TrainingSweep, write_tuned_training
from sadm_ray.tune.training_sweep import tune_training as sweep_training

log = logging.getLogger(__name__)

TUNED = "tuned.yaml"

_PLAIN = str.maketrans({" ": "_", ",": None, "(": None, ")": None})
"""Characters that names of metrics in MLflow may not have, or should not."""


def study_root(settings: Settings) -> str:
    """The study's folder, file or URL: the one that the settings name, else the phantom's folder."""
    return settings.data.root or str(settings.run_dir / "study")


def shards_folder(settings: Settings) -> str:
    """The folder or URL of the shards: the one that the settings name, else in the run's folder."""
    return settings.data.shards or str(settings.run_dir / "shards")


def is_prepared(settings: Settings) -> bool:
    """Whether there are shards, or something that cannot be read where they should be."""
    try:
        return Storage(shards_folder(settings)).entry(STUDY_FILE) is not None
    except OSError:
        return True  # reading it raises the error


def inspect(settings: Settings, pictures: Path | None = None) -> Inspection:
    """Look through the study (the phantom is written first when none is given); pictures of it go to `pictures`."""
    with ray_session(settings):
        if settings.data.root is None:
            write_phantom(Path(study_root(settings)), settings.phantom, settings.seed)
        return inspect_study(settings, study_root(settings), pictures)


def prepare(settings: Settings) -> Study:
    """Catalog the study (the phantom is written first when none is given) and turn it into shards."""
    with tracked_step(settings, "prepare") as tracked, ray_session(settings):
        root = study_root(settings)
        require_shared(shards_folder(settings), "data.shards", "a folder that all nodes share, or a URL")
        if settings.data.root is None:
            write_phantom(Path(root), settings.phantom, settings.seed)
        study = prepare_study(settings, root, shards_folder(settings))
        tracked.params(flatten(settings.data, "data.") | {"digest": study.digest})
        tracked.metrics({f"subjects_{split}": len(names) for split, names in study.subjects.items()})
        tracked.metrics({"problems": len(study.problems)})
        return study


def train(settings: Settings) -> TrainedModel:
    """Train on the shards; run again, it goes on where it was."""
    study = _study(settings)
    check_validation_tasks(settings, study)
    with tracked_step(settings, "train") as tracked, ray_session(settings):
        return train_model(settings, study, settings.run_dir / "model", tracked)


def estimate(settings: Settings) -> DryRun:
    """What training would cost; nothing is trained or written, and the study need not be prepared."""
    study = _study(settings) if is_prepared(settings) else None
    if study is not None:
        check_validation_tasks(settings, study)
    return estimate_training(settings, study)


def tune(settings: Settings) -> SamplingSweep:
    """Sweep the sampling settings on validation subjects; the best go to `tuned.yaml`."""
    study, run_dir = _study(settings), settings.run_dir
    _check_preparation(run_dir / "model", load_model(run_dir / "model").config, study)
    check_tasks(settings, study, study.names("val")[: settings.tune.subjects])
    with tracked_step(settings, "tune") as tracked, ray_session(settings):
        swept = tune_sampling(settings, study, run_dir / "model", run_dir / "sweeps", tracked)
        write_tuned(run_dir / TUNED, swept)
        tables = write_trials(run_dir / "sweeps", swept, settings.tune.objectives[0])
        for file in (run_dir / TUNED, *tables):
            tracked.artifact(file)
        return swept


def tune_training(settings: Settings) -> TrainingSweep:
    """Sweep the settings of training; the best go to `tuned-training.yaml`, a settings file for a run of its own."""
    study, run_dir = _study(settings), settings.run_dir
    check_validation_tasks(settings, study, scored=settings.tune.training.objective == "val_gain")
    with tracked_step(settings, "tune-training") as tracked, ray_session(settings):
        swept = sweep_training(settings, study, run_dir / "sweeps", tracked)
        file, table = run_dir / "tuned-training.yaml", run_dir / "sweeps" / "training-trials.csv"
        write_tuned_training(file, swept, settings)
        swept.trials.to_csv(table, index=False)
        tracked.artifact(file)
        tracked.artifact(table)
        return swept


def generate(settings: Settings) -> Generation:
    """Generate the requested frames, with the sweep's settings where there are any; run again, it does what is left.

    By default these are the frames of every task for the test subjects.
    """
    wanted, sampling = settings.generate, _sampling(settings)
    out = wanted.out or default_out(settings)
    study = _study(settings) if wanted.study is None else None
    folders = model_folders(settings)
    models = [StoredModel.read(folder, sampling.ema) for folder in folders]
    built = [model.build() for model in models]  # a damaged one is refused at once
    trained = built[0].config
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
        facts = decisive_facts(settings, place_of(str(wanted.study)), [model.digest for model in models], sampling)
        if not wanted.replace:
            refuse_before_preparing(settings, trained, str(wanted.study), Storage(out), facts)
    with tracked_step(settings, "generate") as tracked, ray_session(settings):
        if study is None:
            study = prepare_like(settings, trained, str(wanted.study), Storage(out).where(SHARDS))
        for folder, model in zip(folders, built, strict=True):
            _check_preparation(folder, model.config, study)
        tracked.tags(flatten(sampling, "sampling.") | {"out": out})  # parameters could not change
        generated = generate_volumes(settings, study, models, out, sampling)
        tracked.metrics({"volumes": generated.volumes, "failures": len(generated.failures)})
        return generated


def evaluate(settings: Settings) -> Evaluation:
    """Compare what was generated with the truth and with copy-last; write the tables and the report."""
    study, run_dir = _study(settings), settings.run_dir
    with tracked_step(settings, "evaluate") as tracked, ray_session(settings):
        predictions = Storage(settings.generate.out or str(run_dir / "generated")).where(PREDICTIONS)
        evaluation = evaluate_predictions(
            study, predictions, run_dir / "evaluation", pictures=settings.evaluate.pictures
        )
        for row in evaluation.table.to_dict("records"):
            prefix = f"{row['task']}.{row['method'].replace(' ', '_')}"
            tracked.metrics({f"{prefix}.{key}": row[key] for key in ("psnr", "psnr_changed", "ssim", "nrmse")})
        report = run_dir / "report.html"
        write_run_report(
            report,
            settings,
            study,
            evaluation,
            _sampling(settings),
            trials=run_dir / "sweeps" / "trials.csv",
            predictions=predictions,
            losses=step_history(settings, "train", "loss"),
        )
        for picture in evaluation.pictures:
            file = run_dir / "evaluation" / f"{picture.task}_{picture.subject}_{picture.frame:02d}.png"
            file.write_bytes(picture.png)
            tracked.artifact(file, "pictures")
        tracked.artifact(report)
        for name in ("table.csv", "calibration-table.csv", "temporal-table.csv", "ventricles-table.csv"):
            tracked.artifact(run_dir / "evaluation" / name)
        return evaluation


def compare(settings: Settings) -> ComparisonResult:
    """Train every kind of model and compare them; the tables and a report go to `compare/`."""
    study, out = _study(settings), settings.run_dir / "compare"
    with tracked_step(settings, "compare") as tracked, ray_session(settings):
        tracked.tags(flatten(settings.compare, "compare."))  # these may change when it goes on; parameters could not
        compared = compare_models(settings, study, out, tracked)
        for row in compared.statistics.to_dict("records"):
            name = f"{row['task']}.{row['method']}".translate(_PLAIN)
            tracked.metrics({f"{name}.{score}": row[score] for score in SCORES})
        member, evaluation, sampling = compared.ours
        report = out / "report.html"
        write_run_report(
            report,
            member.settings,
            study,
            evaluation,
            sampling,
            trials=member.folder / "sweeps" / "trials.csv",
            predictions=member.folder / "generated" / PREDICTIONS,
            losses=step_history(settings, f"compare/{member.name}", "loss"),
            comparisons=[ComparisonSection(table.title, table.note, table.rows) for table in compared.tables],
            title=f"{settings.run.name}: models compared",
        )
        for file in (*write_compared(compared, out), report):
            tracked.artifact(file)
        return compared


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


def _study(settings: Settings) -> Study:
    """The prepared study, refused when it was prepared with other settings than these."""
    study = read_study(shards_folder(settings))
    wanted = data_digest(settings)
    if study.digest != wanted:
        raise ConfigError(
            f"{study.location}: prepared with other data settings (digest {study.digest[:12]}, these "
            f"have {wanted[:12]}); run `sadm-ray prepare` again, or take another run.name"
        )
    return study


def _check_preparation(folder: Path | str, trained: ModelConfig, study: Study) -> None:
    """Refuse, before any worker starts, a model that was trained on volumes of another preparation."""
    if trained.preparation and trained.preparation != study.preparation:
        times = f"times in {trained.time_unit} against {study.time_unit}"
        raise ConfigError(
            f"{folder}: trained on volumes prepared with other settings (digest {trained.preparation[:12]}) than those "
            f"of {study.location} (digest {study.preparation[:12]}; {times}); prepare with the model's settings, "
            "or train again"
        )


def _sampling(settings: Settings) -> SamplingSettings:
    """The choice of the sweep on this model where there is one and `generate.tuned` is on, else the settings' own."""
    beside = Storage(model_folder(settings).rstrip("/").rpartition("/")[0])
    if not settings.generate.tuned or beside.entry(TUNED) is None:
        return settings.sampling
    try:
        return SamplingSettings.model_validate(yaml.safe_load(beside.read(TUNED))["sampling"])
    except (yaml.YAMLError, ValidationError, KeyError, TypeError) as error:
        raise DataError(
            f"{beside.where(TUNED)}: not a sweep's result ({type(error).__name__}); run `sadm-ray tune` again"
        ) from None
