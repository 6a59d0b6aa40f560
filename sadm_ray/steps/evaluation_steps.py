"""The step that scores what was generated."""

from __future__ import annotations

from sadm_ray.cluster import ray_session
from sadm_ray.config import Settings
from sadm_ray.evaluate.evaluation_job import Evaluation, evaluate_predictions
from sadm_ray.generate.drawn_by import sampling_of
from sadm_ray.generate.generation_record import PREDICTIONS
from sadm_ray.report.run_report import write_run_report
from sadm_ray.steps.run_folder import alone_in_run, prepared_study
from sadm_ray.storage import Storage
from sadm_ray.tracking import step_history, tracked_step
from sadm_ray.tune.tuned_settings import tuned_for


@alone_in_run
def evaluate(settings: Settings) -> Evaluation:
    """Compare what was generated with the truth and with copy-last; write the tables and the report."""
    study, run_dir = prepared_study(settings), settings.run_dir
    folder = Storage(settings.generate.out or str(run_dir / "generated"))
    sampling = sampling_of(folder, settings)
    tuned = tuned_for(settings)
    with tracked_step(settings, "evaluate") as tracked, ray_session(settings):
        predictions = folder.where(PREDICTIONS)
        evaluation = evaluate_predictions(
            study, predictions, run_dir / "evaluation", settings.evaluate.pictures, settings.generate.derived
        )
        every = (evaluation, *evaluation.others)
        for row, split in [(row, each.split) for each in every for row in each.table.to_dict("records")]:
            apart = "" if split == evaluation.split else f"{split}."
            prefix = f"{apart}{row['task'].replace(' ', '.')}.{row['method'].replace(' ', '_')}"
            tracked.metrics({f"{prefix}.{key}": row[key] for key in ("psnr", "psnr_changed", "ssim", "nrmse")})
        report = run_dir / "report.html"
        write_run_report(
            report,
            settings,
            study,
            evaluation,
            sampling,
            trials=run_dir / "sweeps" / "trials.csv",
            chosen_on=tuned.seen if tuned and tuned.sampling == sampling and settings.generate.model is None else None,
            predictions=predictions,
            losses=step_history(settings, "train", "loss") if settings.generate.model is None else (),
        )
        for picture in evaluation.pictures:
            task = picture.task.replace(" ", "_")  # of several contrasts it names one
            file = run_dir / "evaluation" / f"{task}_{picture.subject}_{picture.frame:02d}.png"
            file.write_bytes(picture.png)
            tracked.artifact(file, "pictures")
        tracked.artifact(report)
        for name in ("", "calibration-", "temporal-", "ventricles-", "structures-", "derived-"):
            tracked.artifact(run_dir / "evaluation" / f"{name}table.csv")
        return evaluation
