"""Tables as the page shows them: cells of text, each with the CSS class of its look."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from sadm_ray.evaluate.score_tables import HEADINGS, NAIVE_BASELINES, cells, verdicts


def rows_by_task(table: pd.DataFrame) -> list[dict[str, Any]]:
    """For each task its rows of cells; the best PSNR and the naive baselines are marked."""
    outcomes = {(verdict.task, verdict.method): verdict.outcome for verdict in verdicts(table)}
    shown = [column for column in HEADINGS if column not in ("task", "method")]
    tasks = []
    for task, rows in table.groupby("task", sort=False):
        lines = []
        for line, method, psnr in zip(cells(rows), rows["method"], rows["psnr"], strict=True):
            looks = {"delta_psnr": outcomes.get((str(task), method), "")}
            if psnr == rows["psnr"].max():
                looks["psnr"] = "best"
            found = [(text, looks.get(column, "")) for column, text in zip(shown, line[2:], strict=True)]
            lines.append({"method": method, "cells": found, "baseline": method in NAIVE_BASELINES})
        tasks.append({"task": str(task), "rows": lines})
    return tasks


def plain_rows(table: pd.DataFrame) -> list[list[tuple[str, str]]]:
    """The column names, then the rows, as text and look: numbers with two digits after the point, words to the left."""
    names = [str(name).replace("_", " ") for name in table.columns]
    rows = [[_plain(value) for value in row] for row in table.itertuples(index=False)]
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    looks = ["" if all(_is_number(text) for text in column) else "word" for column in columns]
    return [list(zip(row, looks, strict=True)) for row in (names, *rows)]


def _is_number(text: str) -> bool:
    """Whether the text starts as a number, or stands for a missing one."""
    return text[:1].isdigit() or text[:1] in "+−–-"


def number_cell(value: float, form: str, unit: str = "") -> str:
    """A number as text with a real minus sign; a dash where there is none."""
    return "–" if pd.isna(value) else f"{value:{form}}".replace("-", "−") + unit


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.2f}".replace("-", "−") if isinstance(value, float) else str(value)
