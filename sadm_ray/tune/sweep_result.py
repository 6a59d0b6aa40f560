"""What a sweep found: the table of its trials, which of them wins, and the file that `generate` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from sadm_ray.config import SamplingSettings
from sadm_ray.errors import DataError
from sadm_ray.evaluate.sweep_objectives import OBJECTIVES
from sadm_ray.evaluate.sweep_plots import draw_importance, draw_pareto
from sadm_ray.tune.sampling_space import chosen_sampling
from sadm_ray.tune.trial_history import Trial


@dataclass(frozen=True)
class SamplingSweep:
    """The best settings, on which subjects they were chosen, every trial (one row each), and the failures (lines).

    `trials` has the settings, the scores, and: `subjects`, how many it saw; `stopped` early; `network_calls` a frame;
    `seconds` of evaluation; `pareto`: no other is better in all objectives; `chosen`. The last two: of the trials that
    saw all subjects.
    """

    best: SamplingSettings
    subjects: tuple[str, ...]
    trials: pd.DataFrame
    failures: tuple[str, ...] = ()


def result(
    trials: Sequence[Trial],
    base: SamplingSettings,
    objectives: Sequence[str],
    subjects: Sequence[str],
    failures: Sequence[str] = (),
) -> SamplingSweep:
    """What ended trials amount to.

    Raises:
        DataError: none ended, or the first objective is not defined on these subjects.
    """
    if not trials:
        first = f"; the first: {failures[0]}" if failures else ""
        raise DataError(f"every trial of the sweep failed{first}")
    settings = [chosen_sampling(trial.point, base) for trial in trials]
    table = pd.DataFrame(
        [
            {"trial": trial.name, **sampling.model_dump(), **trial.reports[-1]}
            for trial, sampling in zip(trials, settings, strict=True)
        ]
    )
    table["stopped"] = table["subjects"] < len(subjects)
    # Only a failure can leave none that saw all subjects; then those count that saw the most.
    full = table[table["subjects"] == table["subjects"].max()]
    best = winner(full, objectives[0])
    table["pareto"] = table.index.isin(full.index[pareto_front(full, objectives)])
    table["chosen"] = table.index == best
    return SamplingSweep(settings[best], tuple(subjects), table, tuple(failures))


def winner(trials: pd.DataFrame, objective: str) -> int:
    """The index of the best trial: of those whose difference means nothing, the one with the fewest network calls.

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
    """Which trials no other dominates: as good in every objective and better in one; bool, one a row."""
    signs = np.array([1.0 if OBJECTIVES[name][0] == "max" else -1.0 for name in objectives])
    worth = trials[list(objectives)].to_numpy(dtype=float) * signs
    as_good = (worth[:, None] >= worth[None]).all(axis=2)
    better = (worth[:, None] > worth[None]).any(axis=2)
    known = ~np.isnan(worth).any(axis=1)
    return known & ~(as_good & better).any(axis=0)


def write_tuned(file: Path, swept: SamplingSweep) -> None:
    """The settings as a file that `generate` takes, with a note of where they come from."""
    best = swept.trials[swept.trials["chosen"]].iloc[0]
    stopped, count = int(swept.trials["stopped"].sum()), len(swept.trials)
    failed = f", {len(swept.failures)} failed" if swept.failures else ""
    head = (
        f"# Chosen by a sweep of {count} trials, of which {stopped} were stopped early{failed},\n"
        f"# on {len(swept.subjects)} validation subjects: {', '.join(swept.subjects)}.\n"
        f"# One sample is {best['gain']:+.2f} dB PSNR against copy-last there; a frame takes "
        f"{int(best['network_calls'])} network calls.\n"
    )
    new = file.with_suffix(".new")
    tree = {"sampling": swept.best.model_dump(mode="json")}
    new.write_text(head + yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    new.replace(file)


def write_trials(folder: Path, swept: SamplingSweep, objective: str) -> list[Path]:
    """`trials.csv`, and the plots that it is good for: `pareto.png`, `importance.png`; those that were written."""
    table = folder / "trials.csv"
    swept.trials.to_csv(table, index=False)
    written = [table]
    for name, draw in (("pareto.png", draw_pareto), ("importance.png", draw_importance)):
        file, png = folder / name, draw(swept.trials, objective)
        file.unlink(missing_ok=True)  # of a sweep before
        if png is not None:
            file.write_bytes(png)
            written.append(file)
    return written
