"""The subjects that represent a task in the report: the best, the median and the worst by Δ PSNR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from sadm_ray.evaluate.score_tables import by_subject, leading

Place = Literal["best", "median", "worst", "only"]


@dataclass(frozen=True)
class Representative:
    """A subject that stands for a task: the estimate's mean PSNR and Δ PSNR to copy-last over its frames, dB.

    `name` is its name in the viewer's address; `of` counts the subjects of the task.
    """

    task: str
    place: Place
    subject: str
    psnr: float
    delta_psnr: float
    of: int

    @property
    def name(self) -> str:
        return f"{self.task}.{self.place}"


def representatives(metrics: pd.DataFrame) -> list[Representative]:
    """Best, median and worst of every task, ranked by the estimate's Δ PSNR; fewer where there are fewer subjects."""
    subjects = by_subject(metrics)
    drawn = subjects[(subjects["method"] == leading(set(subjects["method"]))) & subjects["delta_psnr"].notna()]
    found = []
    for task, rows in drawn.sort_values(["delta_psnr", "subject"], ascending=[False, True]).groupby("task"):
        for place, rank in _ranks(len(rows)):
            row = rows.iloc[rank]
            found.append(
                Representative(
                    task=str(task),
                    place=place,
                    subject=str(row["subject"]),
                    psnr=float(row["psnr"]),
                    delta_psnr=float(row["delta_psnr"]),
                    of=len(rows),
                )
            )
    return found


def _ranks(count: int) -> Sequence[tuple[Place, int]]:
    if count == 1:
        return [("only", 0)]
    if count == 2:
        return [("best", 0), ("worst", 1)]
    return [("best", 0), ("median", count // 2), ("worst", count - 1)]
