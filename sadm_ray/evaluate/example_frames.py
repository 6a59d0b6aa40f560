"""Choose the predicted frames that the report shows, and draw them where they are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.evaluate.naive_baselines import last_observed
from sadm_ray.evaluate.prediction import Prediction, Row, Truth
from sadm_ray.evaluate.prediction_plots import draw_prediction
from sadm_ray.evaluate.score_tables import COPY_LAST, ESTIMATE, KEYS, leading, shown_task, signed
from sadm_ray.generate.generation_record import read_predictions

Key = tuple[str, str, int]  # subject, task, frame


@dataclass(frozen=True)
class Picture:
    """One predicted frame beside the truth: a PNG and its caption."""

    subject: str
    task: str
    frame: int
    caption: str
    png: bytes


def choose_pictures(metrics: pd.DataFrame, count: int) -> dict[Key, str]:
    """Which (subject, task, frame) to show, with captions: each task's frames at even ranks of Δ PSNR, worst first.

    Chosen by rank, so that a report shows neither only its best frames nor only its worst.
    """
    keyed = metrics[metrics["error"] == ""].pivot_table(index=KEYS, columns="method", values="psnr")
    method = leading(keyed.columns)
    if method is None:
        return {}
    said = "the estimate" if method == ESTIMATE else "one sample"
    gains = (keyed[method] - keyed[COPY_LAST]).sort_values()
    tasks = sorted(set(gains.index.get_level_values("task")))
    chosen = {}
    for turn, task in enumerate(tasks):
        ranked = gains[gains.index.get_level_values("task") == task]
        wanted = min(len(range(turn, count, len(tasks))), len(ranked))
        for place in range(wanted):
            position = int((place + 0.5) / wanted * len(ranked))
            subject, _, frame = ranked.index[position]
            chosen[(subject, task, int(frame))] = (
                f"{subject}, {task}, frame {frame}: {said} is {signed(ranked.iloc[position])} dB against copy-last "
                f"(rank {position + 1} of {len(ranked)} from the worst)"
            )
    return chosen


def draw_chosen(item: Mapping[str, str], chosen: Collection[Key], study: Study) -> list[dict[str, Any]]:
    """The chosen frames among the predictions in a `file`: key, `png` and `error` (one of the two is empty)."""
    filters = [("frame", "in", sorted({frame for *_, frame in chosen}))]
    rows = read_predictions(item["file"], filters=filters).to_pylist()
    named = [{**row, "task": shown_task(row)} for row in rows]
    return [_draw(row, study) for row in named if key_of(row) in chosen]


def _draw(row: Row, study: Study) -> dict[str, Any]:
    key = {name: row[name] for name in KEYS}
    try:
        truth = Truth.read(study, row["subject"], contrast=row.get("contrast") or "")
        predicted = Prediction.read(row, truth)
        copied = last_observed(predicted.observed, truth.times, predicted.target)
        true_frame = truth.frames[predicted.target]
        png = draw_prediction(true_frame, truth.frames[copied], predicted.samples, copied, predicted.estimate)
    except Exception as error:
        return {**key, "png": b"", "error": f"cannot be drawn: {type(error).__name__}: {error}"}
    return {**key, "png": png, "error": ""}


def key_of(row: Mapping[str, Any]) -> Key:
    """Subject, task and frame of a row."""
    return row["subject"], row["task"], int(row["frame"])
