"""The two tables of a comparison, as Markdown, CSV and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from sadm_ray.config import ModelKind
from sadm_ray.evaluate.score_tables import NAIVE_BASELINES, signed

NAMES: Mapping[str, str] = {
    "sadm": "SADM (ours)",
    "sadm_paper": "SADM as published",
    "regression": "without the diffusion",
    "diffusion_only": "without the attention",
    "flow": "flow matching",
    "ddm": "DDM",
    "gan": "GAN",
}
ONE_SAMPLE = ", one sample"

TableName = Literal["comparison", "ablation"]
BASELINES: TableName = "comparison"
ABLATION: TableName = "ablation"
_ABLATED_KINDS: tuple[ModelKind, ...] = ("regression", "diffusion_only")
_HEADINGS = {
    "psnr": "PSNR dB",
    "psnr_changed": "PSNR changed dB",
    "ssim": "SSIM",
    "nrmse": "NRMSE",
    "crps_changed": "CRPS changed",
    "dice": "Dice",
    "volume_error": "volume error",
}
RANKS = "rank PSNR, CRPS"
_DIGITS = {"psnr": 2, "psnr_changed": 2, "ssim": 3, "nrmse": 3, "crps_changed": 4, "dice": 3, "volume_error": 3}
_OF_STRUCTURES = ("dice", "volume_error")
"""Left out where there are no label maps."""


@dataclass(frozen=True)
class ComparisonTable:
    """A table whose `rows` are text."""

    name: TableName
    title: str
    note: str
    rows: pd.DataFrame

    @property
    def markdown(self) -> str:
        """With title and note."""
        names = [str(name) for name in self.rows.columns]
        lines = [names, [":--", ":--", *["--:"] * (len(names) - 2)], *self.rows.to_numpy().tolist()]
        return f"**{self.title}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{self.note}\n"

    @property
    def csv(self) -> str:
        return self.rows.to_csv(index=False)

    @property
    def latex(self) -> str:
        """A `table` for the package booktabs."""
        text = self.rows.replace({"−": "$-$", "Δ": r"$\\Delta$", "–": "--", "<": "$<$", "±": r"$\\pm$"}, regex=True)
        text.columns = pd.Index([str(name).replace("Δ", r"$\Delta$") for name in self.rows.columns])
        caption = f"{self.title}. {self.note}".replace("Δ", r"$\Delta$").replace("−", "$-$").replace("%", r"\%")
        columns = "ll" + "r" * (len(text.columns) - 2)
        return text.to_latex(index=False, caption=caption, label=f"tab:{self.name}", column_format=columns)


def is_ablation(kind: str) -> bool:
    """Whether a kind is ours without one of its parts."""
    return kind in _ABLATED_KINDS


def make_table(statistics: pd.DataFrame, name: TableName, confidence: float) -> ComparisonTable:
    """One table from `statistics.method_statistics`: naive baselines, baselines and ours, or ours and its ablations."""
    ablated = tuple(NAMES[kind] for kind in _ABLATED_KINDS)
    of_ablation = statistics["method"].str.startswith(ablated)
    ours = statistics["method"].str.startswith(NAMES["sadm"])
    chosen = statistics[(of_ablation | ours) if name == ABLATION else ~of_ablation]
    order = sorted(chosen.index, key=lambda row: _sort_key(statistics, row))
    places = _ranks(chosen)
    shown = [score for score in _HEADINGS if score not in _OF_STRUCTURES or chosen[score].notna().any()]
    rows = [_row(chosen.loc[row], shown) | {RANKS: places[row]} for row in order]
    subjects, seeds = int(statistics["subjects"].max()), int(statistics["seeds"].max())
    note = (
        f"Means over {subjects} test subjects and {seeds} training{'s' * (seeds > 1)} each, in brackets the bootstrap "
        f"{100 * confidence:g} % interval over subjects. Δ: PSNR against {NAMES['sadm']}{ONE_SAMPLE}, on the same "
        "subjects; p: Wilcoxon's signed-rank test, adjusted for the methods of the task (Holm). Rank: within the task, "
        "by PSNR of the whole volume and by CRPS; that of a single volume is its absolute error."
    )
    if _OF_STRUCTURES[0] in shown:
        note += " Dice and error of volumes, as a part of the true ones: means over the structures of the label maps."
    title = "The paper's comparison" if name == BASELINES else "The paper's ablation"
    return ComparisonTable(name, title, note, pd.DataFrame(rows))


def _sort_key(statistics: pd.DataFrame, row: int) -> tuple[int, int, int]:
    """By task in their order; naive baselines first, ours last, and of each kind one sample before the mean."""
    method = str(statistics["method"][row])
    task = list(dict.fromkeys(statistics["task"])).index(statistics["task"][row])
    if method in NAIVE_BASELINES:
        return task, NAIVE_BASELINES.index(method), 0
    kinds = list(reversed(list(NAMES.values())))
    kind = next(place for place, name in enumerate(kinds) if method.startswith(name))
    return task, len(NAIVE_BASELINES) + kind, int(not method.endswith(ONE_SAMPLE))


def _ranks(statistics: pd.DataFrame) -> pd.Series:
    """Of each method among those of its task, 1 is the best: by PSNR, by CRPS; `–` where it has no such score."""
    by_task = statistics.groupby("task")
    psnr, crps = (
        by_task["psnr"].rank(method="min", ascending=False),
        by_task["crps_changed"].rank(method="min"),
    )
    return _place(psnr) + ", " + _place(crps)


def _place(ranks: pd.Series) -> pd.Series:
    return ranks.map(lambda rank: "–" if math.isnan(rank) else f"{rank:g}")


def _row(row: pd.Series, scores: Sequence[str]) -> dict[str, str]:
    cells = {"task": str(row["task"]), "method": str(row["method"])}
    for score in scores:
        cells[_HEADINGS[score]] = _with_interval(row[score], row[f"{score}_low"], row[f"{score}_high"], _DIGITS[score])
    return cells | {"Δ to ours dB": _difference(row["delta_psnr"], row["p"])}


def _with_interval(mean: float, low: float, high: float, digits: int) -> str:
    if math.isnan(mean):
        return "–"
    shown = f"{mean:.{digits}f}"
    return shown if math.isnan(low) else f"{shown} [{low:.{digits}f}, {high:.{digits}f}]"


def _difference(delta: float, p: float) -> str:
    if math.isnan(p):
        return "–"
    return f"{signed(delta)} (p {'< 0.001' if p < 0.001 else f'= {p:.3f}'})"
