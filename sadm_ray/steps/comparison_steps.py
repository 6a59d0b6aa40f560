"""The step that compares kinds of models."""

from __future__ import annotations

from sadm_ray.cluster import ray_session
from sadm_ray.compare.comparison_job import ComparisonResult, compare_models, write_compared
from sadm_ray.compare.statistics import SCORES
from sadm_ray.config import Settings, flatten
from sadm_ray.generate.generation_record import PREDICTIONS
from sadm_ray.report.html_page import ComparisonSection
from sadm_ray.report.run_report import write_run_report
from sadm_ray.steps.run_folder import alone_in_run, prepared_study
from sadm_ray.tracking import begin_anew, step_history, tracked_step

_PLAIN = str.maketrans({" ": "_", ",": None, "(": None, ")": None})
"""Characters that names of metrics in MLflow may not have, or should not."""


@alone_in_run
def compare(settings: Settings) -> ComparisonResult:
    """Train every kind of model and compare them; the tables and a report go to `compare/`."""
    study, out = prepared_study(settings), settings.run_dir / "compare"
    if not out.exists():
        begin_anew(settings, "compare")
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
            chosen_on=compared.chosen_on,
            predictions=member.folder / "generated" / PREDICTIONS,
            losses=step_history(settings, f"compare/{member.name}", "loss"),
            comparisons=[ComparisonSection(table.title, table.note, table.rows) for table in compared.tables],
            title=f"{settings.run.name}: models compared",
        )
        for file in (*write_compared(compared, out), report):
            tracked.artifact(file)
        return compared
