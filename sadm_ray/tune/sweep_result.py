"""The result of a sampling sweep: the table of its trials and the best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sadm_ray.config import SamplingSettings
from sadm_ray.errors import DataError
from sadm_ray.evaluate.sweep_objectives import OBJECTIVES
from sadm_ray.evaluate.sweep_plots import draw_importance, draw_pareto
from sadm_ray.model.seen_subjects import NOBODY, SeenSubjects
from sadm_ray.tune.sampling_space import trial_sampling
from sadm_ray.tune.trial_history import Trial


@dataclass(frozen=True)
class SamplingSweep:
    """The best settings, the subjects they were chosen on, the trials (a row each), and the failures (a line each).

    `trials` has the settings, the scores, and: `subjects`, the number evaluated; `stopped` early; `network_calls` per
    frame; `seconds` of evaluation; `pareto`: on the Pareto front; `chosen`. The last two consider only trials with all
    subjects. `model` is the digest of the model whose settings these are, `seen` are the subjects' fingerprints.
    """

    best: SamplingSettings
    subjects: tuple[str, ...]
    trials: pd.DataFrame
    failures: tuple[str, ...] = ()
    model: str = ""
    seen: SeenSubjects = NOBODY


def summarise_trials(
    trials: Sequence[Trial],
    base: SamplingSettings,
    objectives: Sequence[str],
    subjects: Sequence[str],
    failures: Sequence[str] = (),
) -> SamplingSweep:
    """The result of the trials that ended.

    Raises:
        DataError: none ended, or the first objective is undefined on these subjects.
    """
    if not trials:
        first = f"; the first: {failures[0]}" if failures else ""
        raise DataError(f"every trial of the sweep failed{first}")
    settings = [trial_sampling(trial.point, base) for trial in trials]
    table = pd.DataFrame(
        [
            {"trial": trial.name, **sampling.model_dump(), **trial.reports[-1]}
            for trial, sampling in zip(trials, settings, strict=True)
        ]
    )
    table["stopped"] = table["subjects"] < len(subjects)
    # If failures leave no trial with all subjects, those with the most are considered.
    full = table[table["subjects"] == table["subjects"].max()]
    best = best_trial(full, objectives[0])
    table["pareto"] = table.index.isin(full.index[pareto_front(full, objectives)])
    table["chosen"] = table.index == best
    return SamplingSweep(settings[best], tuple(subjects), table, tuple(failures))


def best_trial(trials: pd.DataFrame, objective: str) -> int:
    """The index of the best trial: of those within the tolerance of the best score, that with fewest network calls.

    Raises:
        DataError: the objective is NaN in all of them.
    """
    mode, tolerance = OBJECTIVES[objective]
    worth = trials[objective] * (1.0 if mode == "max" else -1.0)
    if worth.isna().all():
        raise DataError(
            f"{objective} is not defined on any of the validation subjects (nothing in them changes); choose another "
            "tune.objectives"
        )
    near = trials.assign(worth=worth)[worth >= worth.max() - tolerance]
    return int(near.sort_values(["network_calls", "worth"], ascending=[True, False], kind="stable").index[0])


def pareto_front(trials: pd.DataFrame, objectives: Sequence[str]) -> np.ndarray:
    """Which trials are on the Pareto front, one bool per row: none is as good in all objectives and better in one."""
    signs = np.array([1.0 if OBJECTIVES[name][0] == "max" else -1.0 for name in objectives])
    worth = trials[list(objectives)].to_numpy(dtype=float) * signs
    as_good = (worth[:, None] >= worth[None]).all(axis=2)
    better = (worth[:, None] > worth[None]).any(axis=2)
    known = ~np.isnan(worth).any(axis=1)
    return known & ~(as_good & better).any(axis=0)


def write_trials(folder: Path, swept: SamplingSweep, objective: str) -> list[Path]:
    """Write `trials.csv`, and if there are enough trials `pareto.png` and `importance.png`; returns the files."""
    table = folder / "trials.csv"
    swept.trials.to_csv(table, index=False)
    written = [table]
    for name, draw in (("pareto.png", draw_pareto), ("importance.png", draw_importance)):
        file, png = folder / name, draw(swept.trials, objective)
        file.unlink(missing_ok=True)  # of an earlier sweep
        if png is not None:
            file.write_bytes(png)
            written.append(file)
    return written
