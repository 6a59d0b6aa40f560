"""The evaluation job: predictions beside the truth, on Ray Data, to one table.

Every predicted volume is scored where it lies; only numbers and a few pictures come back to the driver.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sadm_ray.data.study import Study, read_subject
from sadm_ray.errors import DataError
from sadm_ray.evaluate import floors
from sadm_ray.evaluate.metrics import DEFINITIONS, changed_region, require_scikit_image, score
from sadm_ray.evaluate.pictures import draw_prediction
from sadm_ray.evaluate.tables import COPY_LAST, INTERPOLATION, KEYS, METRICS_COLUMNS, SAMPLE, rank, signed, summarise

if TYPE_CHECKING:
    from sadm_ray.progress import Reporter

Row = dict[str, Any]
Key = tuple[str, str, int]  # subject, task, frame


@dataclass(frozen=True)
class Picture:
    """One predicted frame beside the truth: PNG bytes and what is to be said about it."""

    subject: str
    task: str
    frame: int
    caption: str
    png: bytes


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation found.

    Attributes:
        metrics: one row a (subject, task, frame, method); see `tables.METRICS_COLUMNS`. A prediction that could not be
            scored has one row with its `error`, no method and no numbers.
        table: `tables.summarise` of it.
        pictures: some predicted frames, spread evenly from the worst to the best.
        problems: a line for each prediction that could not be scored or drawn.
    """

    metrics: pd.DataFrame
    table: pd.DataFrame
    pictures: tuple[Picture, ...]
    problems: tuple[str, ...]


def evaluate_predictions(study: Study, predictions_dir: Path, out_dir: Path, pictures: int = 4) -> Evaluation:
    """Score all predictions against the true frames, and the floors beside them.

    Writes `metrics.parquet`, `metrics.csv`, `table.csv` and `definitions.json` to `out_dir`. Targets that were never
    scanned have no truth and are left out. One prediction that fails does not stop the rest. Ray must be running.

    Args:
        predictions_dir: Parquet of the generation job, one row a (subject, task, frame).
        pictures: how many frames to draw.

    Raises:
        ConfigError: scikit-image is not installed.
        DataError: there are no predictions, one was made twice, or none has a true frame to compare with.
    """
    require_scikit_image()
    import ray

    from sadm_ray.progress import progress

    if not any(predictions_dir.glob("**/*.parquet")):
        raise DataError(f"{predictions_dir}: no predictions here; generate some first")
    predictions = ray.data.read_parquet(str(predictions_dir.absolute()), partitioning=None)
    truth = {"study": study}
    with progress("evaluate", predictions.count()) as reporter:
        scored = predictions.flat_map(score_row, fn_kwargs={"reporter": reporter, **truth}).take_all()
    rows = pd.DataFrame(scored, columns=METRICS_COLUMNS)
    if rows.empty:
        raise DataError(f"{predictions_dir}: no predicted frame has a true scan to compare with")
    twice = rows[rows.duplicated([*KEYS, "method"])]
    if not twice.empty:
        raise DataError(
            f"{predictions_dir}: subject {twice['subject'].iloc[0]} is predicted twice; the folder holds more than one "
            "generation: empty it and generate again"
        )
    rows["method_rank"] = rows["method"].map(rank)
    metrics = rows.sort_values(["task", "subject", "frame", "method_rank"], ignore_index=True)[METRICS_COLUMNS]
    table = summarise(metrics)
    _write_all(out_dir, metrics, table)

    chosen = choose_pictures(metrics, pictures)
    drawing = predictions.flat_map(draw_chosen, fn_kwargs={"chosen": set(chosen), **truth})
    drawn = drawing.take_all() if chosen else []
    shown = tuple(
        Picture(*_key(row), caption=chosen[_key(row)], png=row["png"])
        for row in sorted(drawn, key=lambda row: list(chosen).index(_key(row)))
        if not row["error"]
    )
    failed = [row for row in [*metrics.to_dict("records"), *drawn] if row["error"]]
    problems = tuple(f"{row['subject']}, {row['task']}, frame {row['frame']}: {row['error']}" for row in failed)
    return Evaluation(metrics=metrics, table=table, pictures=shown, problems=problems)


def score_row(row: Row, reporter: Reporter, **truth: Any) -> list[Row]:
    """`score_prediction`, which is told of."""
    scores = score_prediction(row, **truth)
    reporter.add.remote(1)
    return scores


def score_prediction(row: Row, study: Study) -> list[Row]:
    """The metrics of one predicted frame, one row a method; none when there is no true frame; never raises.

    Args:
        row: `subject`, `task`, `frame`, `time`, `observed` (slots), `samples` (float16 bytes) in [0, 1] of `shape`
            (s 1 d h w), and `error`, not empty where the generation failed.
    """
    common = {"subject": row["subject"], "task": row["task"], "frame": int(row["frame"]), "time": float(row["time"])}
    blank = dict.fromkeys(("psnr", "psnr_changed", "ssim", "nrmse"), float("nan"))
    if row["error"]:
        return [{**common, "method": "", **blank, "error": row["error"]}]
    try:
        compared = _Compared.read(row, study)
        if compared is None:
            return []
        region = compared.region
        return [
            {**common, "method": method, **score(compared.truth, volume, region), "error": ""}
            for method, volume in compared.volumes()
        ]
    except Exception as error:
        return [{**common, "method": "", **blank, "error": f"{type(error).__name__}: {error}"}]


def draw_chosen(row: Row, chosen: set[Key], study: Study) -> list[Row]:
    """One predicted frame as a picture: its key, `png` and `error` (one of the two is empty); never raises.

    Frames that are not among `chosen` come back as no row at all.
    """
    if _key(row) not in chosen:
        return []
    key = {name: row[name] for name in KEYS}
    try:
        compared = _Compared.read(row, study)
        if compared is None:
            raise ValueError("there is no true frame")  # noqa: TRY301
        png = draw_prediction(compared.truth, compared.copied, compared.samples, compared.copied_slot)
    except Exception as error:
        return [{**key, "png": b"", "error": f"cannot be drawn: {type(error).__name__}: {error}"}]
    return [{**key, "png": png, "error": ""}]


def choose_pictures(metrics: pd.DataFrame, count: int) -> dict[Key, str]:
    """Which (subject, task, frame) to show, with captions: each task's frames at even ranks of Δ PSNR, worst first.

    Chosen by rank, so that a report can show neither its best frames only nor its worst.
    """
    keyed = metrics[metrics["error"] == ""].pivot_table(index=KEYS, columns="method", values="psnr")
    if SAMPLE not in keyed:
        return {}
    gains = (keyed[SAMPLE] - keyed[COPY_LAST]).sort_values()
    tasks = sorted(set(gains.index.get_level_values("task")))
    chosen = {}
    for turn, task in enumerate(tasks):
        ranked = gains[gains.index.get_level_values("task") == task]
        wanted = min(len(range(turn, count, len(tasks))), len(ranked))
        for place in range(wanted):
            position = int((place + 0.5) / wanted * len(ranked))
            subject, _, frame = ranked.index[position]
            chosen[(subject, task, int(frame))] = (
                f"{subject}, {task}, frame {frame}: one sample is {signed(ranked.iloc[position])} dB against copy-last "
                f"(rank {position + 1} of {len(ranked)} from the worst)"
            )
    return chosen


@dataclass(frozen=True)
class _Compared:
    """A predicted frame and the truth about it; volumes d h w."""

    truth: np.ndarray
    region: np.ndarray
    copied: np.ndarray
    copied_slot: int
    interpolated: np.ndarray | None
    samples: np.ndarray  # s d h w

    @classmethod
    def read(cls, row: Row, study: Study) -> _Compared | None:
        subject = read_subject(study, row["subject"])
        frames, present, times = subject["frames"][:, 0], subject["present"], subject["times"]
        target, observed = int(row["frame"]), [int(slot) for slot in row["observed"]]
        if not present[target]:
            return None
        absent = [slot for slot in observed if not present[slot]]
        if absent:
            raise ValueError(f"frame {absent[0]} is said to be observed, but the subject has none there")
        return cls(
            truth=frames[target],
            region=changed_region(frames, present),
            copied=floors.copy_last(frames, observed, times, target),
            copied_slot=floors.last_observed(observed, times, target),
            interpolated=floors.interpolation(frames, observed, times, target),
            samples=np.frombuffer(row["samples"], "<f2").reshape(row["shape"])[:, 0].astype(np.float32),
        )

    def volumes(self) -> Iterator[tuple[str, np.ndarray]]:
        yield COPY_LAST, self.copied
        if self.interpolated is not None:
            yield INTERPOLATION, self.interpolated
        yield SAMPLE, self.samples[0]
        if len(self.samples) > 1:
            yield f"mean of {len(self.samples)}", self.samples.mean(axis=0)


def _key(row: Mapping[str, Any]) -> Key:
    return row["subject"], row["task"], int(row["frame"])


def _write_all(out_dir: Path, metrics: pd.DataFrame, table: pd.DataFrame) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    _write(out_dir / "metrics.parquet", lambda file: metrics.to_parquet(file, index=False))
    _write(out_dir / "metrics.csv", lambda file: metrics.to_csv(file, index=False))
    _write(out_dir / "table.csv", lambda file: table.to_csv(file, index=False))
    definitions = json.dumps(DEFINITIONS, indent=2, ensure_ascii=False) + "\n"
    _write(out_dir / "definitions.json", lambda file: file.write_text(definitions, encoding="utf-8"))


def _write(file: Path, write: Callable[[Path], object]) -> None:
    """Write under another name first: a reader never finds half a file."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    write(unfinished)
    unfinished.replace(file)
