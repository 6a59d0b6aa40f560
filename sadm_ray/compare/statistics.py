"""Statistics of a comparison: bootstrap intervals over subjects, and paired tests against ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import bootstrap, wilcoxon

RESAMPLES = 5000

SCORES = ("psnr", "psnr_changed", "ssim", "nrmse", "crps_changed", "dice", "volume_error")
"""The last two are of structures, means over those of a subject: Dice, and the error of volumes as a part of the true
ones. They are NaN without label maps, and of methods that predict none."""


def interval(values: Float[np.ndarray, " n"], confidence: float) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean (Efron, 1979); NaN with fewer than two values.

    The resamples are the same in every call.
    """
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return float("nan"), float("nan")
    found = bootstrap(
        (finite,),
        np.mean,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_p(differences: Float[np.ndarray, " n"]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (1945) that differences lie around 0; NaN with fewer than two."""
    finite = differences[np.isfinite(differences)]
    if len(finite) < 2:
        return float("nan")
    return float(wilcoxon(finite).pvalue) if finite.any() else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for multiple tests (Holm, 1979), so that the family-wise error is bounded; NaN stays NaN."""
    p = np.asarray(p_values, dtype=float)
    order = [int(index) for index in np.argsort(p) if np.isfinite(p[index])]
    adjusted, largest = p.copy(), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min((len(order) - rank) * p[index], 1.0))
        adjusted[index] = largest
    return adjusted.tolist()


def method_statistics(scores: pd.DataFrame, ours: str, confidence: float) -> pd.DataFrame:
    """The means of every method with intervals, and its difference to ours with a test.

    Args:
        scores: a row per (task, method, seed, subject) with `SCORES`. The seeds of a method are averaged within each
            subject first, since the subjects are the sample of the population.
        ours: the method that the others are compared with, paired by subject.

    Returns:
        a row per (task, method): `subjects`, `seeds`; of each score the mean, `<score>_low`, `<score>_high`; `seed_sd`:
        the deviation of the mean PSNR between seeds; `delta_psnr`, `delta_low`, `delta_high`: PSNR minus that of ours
        in dB, and `p`: of the signed-rank test of it, adjusted for the number of methods in the task (Holm).
    """
    rows = []
    for (task, method), group in scores.groupby(["task", "method"], sort=False):
        subjects = group.groupby("subject")[list(SCORES)].mean()
        row = {"task": task, "method": method, "subjects": len(subjects), "seeds": group["seed"].nunique()}
        for score in SCORES:
            values = subjects[score].to_numpy(dtype=float)
            low, high = interval(values, confidence)
            row |= {score: float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")}
            row |= {f"{score}_low": low, f"{score}_high": high}
        row["seed_sd"] = float(group.groupby("seed")["psnr"].mean().std(ddof=1))
        rows_of_ours = scores[(scores["task"] == task) & (scores["method"] == ours)]
        psnr_of_ours = rows_of_ours.groupby("subject")["psnr"].mean()
        differences = (subjects["psnr"] - psnr_of_ours).dropna().to_numpy(dtype=float)
        low, high = interval(differences, confidence) if method != ours else (float("nan"), float("nan"))
        row |= {"delta_psnr": float(differences.mean()) if len(differences) else float("nan")}
        row |= {"delta_low": low, "delta_high": high}
        row["p"] = float("nan") if method == ours else paired_p(differences)
        rows.append(row)
    table = pd.DataFrame(rows)
    for rows_of_task in table.groupby("task").groups.values():
        table.loc[rows_of_task, "p"] = holm(table.loc[rows_of_task, "p"].tolist())
    return table
