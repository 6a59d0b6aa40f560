"""The comparison: train every kind of model with the same budget and evaluate all on the same tasks and subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sadm_ray.cluster import require_shared
from sadm_ray.compare.compared_model_training import train_members
from sadm_ray.compare.compared_models import Member, comparison_tasks, members_of
from sadm_ray.compare.comparison_tables import (
    ABLATION,
    BASELINES,
    NAMES,
    ONE_SAMPLE,
    ComparisonTable,
    is_ablation,
    make_table,
)
from sadm_ray.compare.statistics import SCORES, method_statistics
from sadm_ray.config import ModelKind, SamplingSettings, Settings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import DataError, UserError
from sadm_ray.evaluate.evaluation_job import Evaluation, evaluate_predictions
from sadm_ray.evaluate.score_tables import KEYS, NAIVE_BASELINES, SAMPLE
from sadm_ray.generate.answerable import require_answerable
from sadm_ray.generate.generation_job import generate_volumes
from sadm_ray.generate.generation_record import PREDICTIONS
from sadm_ray.model.pretrained import StoredModel, load_model
from sadm_ray.model.registry import KINDS
from sadm_ray.model.seen_subjects import SeenSubjects
from sadm_ray.tracking import TrackedRun
from sadm_ray.tune.sampling_sweep import tune_sampling
from sadm_ray.tune.sweep_result import write_trials


@dataclass(frozen=True)
class ComparisonResult:
    """The result of a comparison.

    Attributes:
        tables: the comparison with the baselines and the ablation, if their kinds take part.
        statistics: all numbers of the tables (`statistics.method_statistics`).
        members: a row per training: `kind`, `seed`, `steps`, `parameters`, network `calls` per volume, and `sampling`.
        ours: our first training, its evaluation and its sampling settings.
        chosen_on: those on whom these sampling settings were chosen; None: on nobody.
        failures: a line for each member that is missing in the tables, and for each subject that failed.
    """

    tables: tuple[ComparisonTable, ...]
    statistics: pd.DataFrame
    members: pd.DataFrame
    ours: tuple[Member, Evaluation, SamplingSettings]
    chosen_on: SeenSubjects | None
    failures: tuple[str, ...]


def compare_models(settings: Settings, study: Study, out: Path, tracked: TrackedRun) -> ComparisonResult:
    """Compare `settings.compare.kinds` on the test subjects; run again, it is resumed.

    Args:
        out: folder for the runs of the members.

    Raises:
        ConfigError: `out` is not seen by every machine; or no test subject has the frames of a task.
        DataError: ours could not be trained or evaluated, so that there is nothing to compare with.
    """
    require_shared(str(out), "run.dir", "a folder that all nodes share")
    tasks_key = "compare.tasks" if settings.compare.tasks else "generate.tasks"
    require_answerable(study, study.names("test"), comparison_tasks(settings, study), tasks_key)
    members = members_of(settings, study, out)
    failures = train_members(members, study, out, settings.compare.concurrent, tracked)
    failed = {line.partition(":")[0] for line in failures}
    trained = [member for member in members if member.name not in failed]
    sampling: dict[ModelKind, tuple[SamplingSettings, SeenSubjects | None]] = {}
    rows, summaries, ours = [], [], None
    for member in trained:
        try:
            if member.kind not in sampling:  # chosen with the first seed, for all seeds
                sampling[member.kind] = _choose_sampling(member, study, tracked)
            evaluation, summary = _evaluate(member, study, *sampling[member.kind])
        except UserError as error:
            failures.append(f"{member.name}: {error}")
            continue
        failures += [f"{member.name}: {problem}" for problem in evaluation.problems]
        rows.append(with_structures(evaluation).assign(kind=member.kind, seed=member.seed))
        summaries.append(summary)
        tracked.child(member.name).finish()
        ours = ours or ((member, evaluation, sampling["sadm"][0]) if member.kind == "sadm" else None)
    if ours is None:
        raise DataError(f"{out}: ours has no results, so there is nothing to compare with; {failures[0]}")
    metrics = pd.concat(rows)
    order = {task.name: place for place, task in enumerate(members[0].settings.generate.tasks)}
    places = metrics["task"].str.split(" ").str[0].map(order)  # behind a task may stand a contrast
    metrics = metrics.iloc[places.to_numpy().argsort(kind="stable")]
    table = method_statistics(scores_of(metrics), NAMES["sadm"] + ONE_SAMPLE, settings.compare.confidence)
    kinds = {str(member["kind"]) for member in summaries}
    tables = [make_table(table, BASELINES, settings.compare.confidence)]
    if any(is_ablation(kind) for kind in kinds - {"sadm"}):
        tables.append(make_table(table, ABLATION, settings.compare.confidence))
    chosen_on = sampling["sadm"][1]
    return ComparisonResult(tuple(tables), table, pd.DataFrame(summaries), ours, chosen_on, tuple(failures))


def with_structures(evaluation: Evaluation) -> pd.DataFrame:
    """The metrics with `dice` and `volume_error` of the label maps, means over the structures that the truth has."""
    keys = [*KEYS, "method"]
    known = evaluation.structures[evaluation.structures["true_voxels"].astype(float) > 0]
    off = (known["predicted_voxels"] - known["true_voxels"]).abs() / known["true_voxels"]
    means = known.assign(volume_error=off).astype({"dice": float, "volume_error": float})
    means = means.groupby(keys)[["dice", "volume_error"]].mean().reset_index()
    return evaluation.metrics.merge(means, on=keys, how="left")


def scores_of(metrics: pd.DataFrame) -> pd.DataFrame:
    """A row per (task, method, seed, subject): frames averaged, naive baselines once, methods with readable names.

    Args:
        metrics: of all evaluations, with `kind` and `seed`.
    """
    scored = metrics[metrics["error"] == ""].copy()
    is_naive = scored["method"].isin(NAIVE_BASELINES)
    scored = scored[~is_naive | ((scored["kind"] == "sadm") & (scored["seed"] == scored["seed"].min()))]
    scored["method"] = [
        method if method in NAIVE_BASELINES else _method_name(kind, method)
        for method, kind in zip(scored["method"], scored["kind"], strict=True)
    ]
    scores = scored.reindex(columns=["task", "method", "seed", "subject", *SCORES])
    return scores.groupby(["task", "method", "seed", "subject"], sort=False)[list(SCORES)].mean().reset_index()


def _method_name(kind: ModelKind, method: str) -> str:
    if not KINDS[kind].is_random:
        return NAMES[kind]
    return NAMES[kind] + (ONE_SAMPLE if method == SAMPLE else f", {method}")


def _choose_sampling(member: Member, study: Study, tracked: TrackedRun) -> tuple[SamplingSettings, SeenSubjects | None]:
    """The best settings of a sampling sweep and on whom they were chosen, for kinds whose network calls can be set."""
    settings, model = member.settings, load_model(member.model)
    steps = {model.network_calls(SamplingSettings(num_steps=count)) for count in (1, 2)}
    if len(steps) == 1 or not settings.compare.trials:
        return settings.sampling, None
    sweeps = member.folder / "sweeps"
    swept = tune_sampling(settings, study, member.model, sweeps, tracked.child(member.name))
    write_trials(sweeps, swept, settings.tune.objectives[0])
    return swept.best, swept.seen


def _evaluate(
    member: Member, study: Study, sampling: SamplingSettings, chosen_on: SeenSubjects | None
) -> tuple[Evaluation, dict[str, Any]]:
    settings, out = member.settings, member.folder / "generated"
    stored = StoredModel.read(member.model, sampling.ema)
    generated = generate_volumes(settings, study, [stored], str(out), sampling, chosen_on)
    shown = settings.evaluate.pictures if (member.kind, member.seed) == ("sadm", 0) else 0  # for the report
    evaluation = evaluate_predictions(study, out / PREDICTIONS, member.folder / "evaluation", pictures=shown)
    if evaluation.split != "test" or evaluation.metrics.empty:
        raise DataError(
            f"{out}: no predicted subject is known to be new to the model; compare with generate.split=test, and take "
            "another run.name for another split"
        )
    model = stored.build()
    summary = {
        "kind": member.kind,
        "seed": member.seed,
        "steps": settings.train.steps,
        "parameters": model.describe()["parameters"],
        "calls": model.network_calls(sampling),
        "subjects": generated.subjects,
        "sampling": ", ".join(f"{key} {value}" for key, value in sampling.model_dump().items()),
    }
    return evaluation, summary


def write_compared(result: ComparisonResult, folder: Path) -> Sequence[Path]:
    """Write the tables as Markdown, CSV and LaTeX, and all numbers as CSV; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"judged.csv": result.statistics.to_csv(index=False), "members.csv": result.members.to_csv(index=False)}
    for table in result.tables:
        texts |= {f"{table.name}.md": table.markdown, f"{table.name}.csv": table.csv, f"{table.name}.tex": table.latex}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]
