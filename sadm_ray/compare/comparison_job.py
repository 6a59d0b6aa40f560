"""The comparison: train every kind with the same budget, ask all the same questions, and judge the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sadm_ray.cluster import require_shared
from sadm_ray.compare.comparison_tables import ABLATION, BASELINES, NAMES, ONE, ComparisonTable, is_ablation, make_table
from sadm_ray.compare.member_training import train_members
from sadm_ray.compare.members import Member, members_of
from sadm_ray.compare.statistics import SCORES, judged
from sadm_ray.config import ModelKind, SamplingSettings, Settings
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import DataError, UserError
from sadm_ray.evaluate.evaluation_job import Evaluation, evaluate_predictions
from sadm_ray.evaluate.score_tables import NAIVE_BASELINES, SAMPLE
from sadm_ray.generate.generation_job import generate_volumes
from sadm_ray.generate.subject_record import PREDICTIONS
from sadm_ray.model.pretrained import StoredModel, load_model
from sadm_ray.model.registry import KINDS
from sadm_ray.tracking import TrackedRun
from sadm_ray.tune.sampling_sweep import tune_sampling
from sadm_ray.tune.sweep_result import write_trials


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison found.

    Attributes:
        tables: the comparison with the rivals and the ablation, as many as there are kinds for.
        judged: all numbers behind them (`statistics.judged`).
        members: a row a training: `kind`, `seed`, `steps`, `parameters`, network `calls` a volume, and `sampling`.
        ours: what our first training was found to be, and with which settings of sampling.
        failures: a line for each member that has no part in the tables, and for each subject that failed.
    """

    tables: tuple[ComparisonTable, ...]
    judged: pd.DataFrame
    members: pd.DataFrame
    ours: tuple[Member, Evaluation, SamplingSettings]
    failures: tuple[str, ...]


def compare_models(settings: Settings, study: Study, out: Path, tracked: TrackedRun) -> ComparisonResult:
    """Compare `settings.compare.kinds` on the test subjects; run again, it goes on where it was.

    Args:
        out: every member's run is put there.

    Raises:
        ConfigError: `out` is not seen by every machine.
        DataError: ours could not be trained or evaluated; there is nothing to compare with.
    """
    require_shared(str(out), "run.dir", "a folder that all nodes share")
    members = members_of(settings, study, out)
    failures = train_members(members, study, out, settings.compare.concurrent, tracked)
    failed = {line.partition(":")[0] for line in failures}
    trained = [member for member in members if member.name not in failed]
    sampling: dict[ModelKind, SamplingSettings] = {}
    rows, told, ours = [], [], None
    for member in trained:
        try:
            if member.kind not in sampling:  # chosen on the first seed, for all
                sampling[member.kind] = _sampling(member, study, tracked)
            evaluation, about = _evaluated(member, study, sampling[member.kind])
        except UserError as error:
            failures.append(f"{member.name}: {error}")
            continue
        failures += [f"{member.name}: {problem}" for problem in evaluation.problems]
        rows.append(evaluation.metrics.assign(kind=member.kind, seed=member.seed))
        told.append(about)
        tracked.child(member.name).finish()
        ours = ours or ((member, evaluation, sampling["sadm"]) if member.kind == "sadm" else None)
    if ours is None:
        raise DataError(f"{out}: ours has no results, so there is nothing to compare with; {failures[0]}")
    metrics = pd.concat(rows)
    tasks = [task.name for task in members[0].settings.generate.tasks]
    metrics = metrics.sort_values("task", key=lambda names: names.map(tasks.index), kind="stable")
    table = judged(scores_of(metrics), NAMES["sadm"] + ONE, settings.compare.confidence)
    kinds = {str(member["kind"]) for member in told}
    tables = [make_table(table, BASELINES, settings.compare.confidence)]
    if any(is_ablation(kind) for kind in kinds - {"sadm"}):
        tables.append(make_table(table, ABLATION, settings.compare.confidence))
    return ComparisonResult(tuple(tables), table, pd.DataFrame(told), ours, tuple(failures))


def scores_of(metrics: pd.DataFrame) -> pd.DataFrame:
    """A row a (task, method, seed, subject): frames averaged, floors once, methods named for people.

    Args:
        metrics: those of all evaluations, with `kind` and `seed`.
    """
    scored = metrics[metrics["error"] == ""].copy()
    is_floor = scored["method"].isin(NAIVE_BASELINES)
    scored = scored[~is_floor | ((scored["kind"] == "sadm") & (scored["seed"] == scored["seed"].min()))]
    scored["method"] = [
        method if method in NAIVE_BASELINES else _named(kind, method)
        for method, kind in zip(scored["method"], scored["kind"], strict=True)
    ]
    return scored.groupby(["task", "method", "seed", "subject"], sort=False)[list(SCORES)].mean().reset_index()


def _named(kind: ModelKind, method: str) -> str:
    if not KINDS[kind].is_random:
        return NAMES[kind]
    return NAMES[kind] + (ONE if method == SAMPLE else f", {method}")


def _sampling(member: Member, study: Study, tracked: TrackedRun) -> SamplingSettings:
    """The sweep's choice, for kinds of which sampling can be set at all."""
    settings, model = member.settings, load_model(member.model)
    steps = {model.network_calls(SamplingSettings(num_steps=count)) for count in (1, 2)}
    if len(steps) == 1 or not settings.compare.trials:
        return settings.sampling
    sweeps = member.folder / "sweeps"
    swept = tune_sampling(settings, study, member.model, sweeps, tracked.child(member.name))
    write_trials(sweeps, swept, settings.tune.objectives[0])
    return swept.best


def _evaluated(member: Member, study: Study, sampling: SamplingSettings) -> tuple[Evaluation, dict[str, Any]]:
    settings, out = member.settings, member.folder / "generated"
    stored = StoredModel.read(member.model, sampling.ema)
    generated = generate_volumes(settings, study, [stored], str(out), sampling)
    shown = settings.evaluate.pictures if (member.kind, member.seed) == ("sadm", 0) else 0  # those of the report
    evaluation = evaluate_predictions(study, out / PREDICTIONS, member.folder / "evaluation", pictures=shown)
    model = stored.build()
    about = {
        "kind": member.kind,
        "seed": member.seed,
        "steps": settings.train.steps,
        "parameters": model.describe()["parameters"],
        "calls": model.network_calls(sampling),
        "subjects": generated.subjects,
        "sampling": ", ".join(f"{key} {value}" for key, value in sampling.model_dump().items()),
    }
    return evaluation, about


def write_compared(compared: ComparisonResult, folder: Path) -> Sequence[Path]:
    """Write the tables as Markdown, CSV and LaTeX, and all numbers behind them; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"judged.csv": compared.judged.to_csv(index=False), "members.csv": compared.members.to_csv(index=False)}
    for table in compared.tables:
        texts |= {f"{table.name}.md": table.markdown, f"{table.name}.csv": table.csv, f"{table.name}.tex": table.latex}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]
