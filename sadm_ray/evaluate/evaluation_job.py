"""The evaluation job: compares predictions with the truth, on Ray Data, and writes tables.

Every subject's predictions are scored where they are read; only numbers and a few pictures come back to the driver.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from sadm_ray.cluster import require_shared
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import DataError
from sadm_ray.evaluate.example_frames import Picture, choose_pictures, draw_chosen, key_of
from sadm_ray.evaluate.label_maps import scans_of
from sadm_ray.evaluate.mean_change_baseline import Pair, mean_change
from sadm_ray.evaluate.metrics import DEFINITIONS, require_scikit_image
from sadm_ray.evaluate.naive_baselines import last_observed
from sadm_ray.evaluate.score_tables import (
    CALIBRATION_COLUMNS,
    KEYS,
    METRICS_COLUMNS,
    TEMPORAL_COLUMNS,
    VENTRICLES_COLUMNS,
    rank,
    summarise,
    summarise_calibration,
    summarise_temporal,
    summarise_ventricles,
)
from sadm_ray.evaluate.subject_scores import SubjectScores, score_file
from sadm_ray.generate.generation_record import read_predictions
from sadm_ray.storage import Storage


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation found.

    Attributes:
        metrics: one row a (subject, task, frame, method); see `score_tables.METRICS_COLUMNS`. A prediction that could
            not be scored has one row with its `error`, no method and no numbers.
        table: `score_tables.summarise` of it.
        pictures: some predicted frames, at even ranks from the worst to the best.
        problems: a line for each prediction that could not be scored or drawn, and for each label map that is damaged.
        calibration: one row a (subject, task, frame); see `score_tables.CALIBRATION_COLUMNS`. Empty with one sample a
            frame.
        temporal: one row a (subject, task, method); see `score_tables.TEMPORAL_COLUMNS`. Empty where no two targets of
            a task are neighbours in time.
        ventricles: one row a (subject, task, frame, method, structure); see `score_tables.VENTRICLES_COLUMNS`. Empty
            where no ACDC label maps lie beside the scans (`sadm_ray.evaluate.label_maps`).
    """

    metrics: pd.DataFrame
    table: pd.DataFrame
    pictures: tuple[Picture, ...]
    problems: tuple[str, ...]
    calibration: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CALIBRATION_COLUMNS))
    temporal: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=TEMPORAL_COLUMNS))
    ventricles: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=VENTRICLES_COLUMNS))


def evaluate_predictions(study: Study, predictions: Path | str, out_dir: Path, pictures: int = 4) -> Evaluation:
    """Score all predictions, and the naive baselines, against the true frames.

    Writes `metrics`, `calibration`, `temporal` and `ventricles` (each as `.parquet` and `.csv`), their means over
    subjects (`table.csv`, `calibration-table.csv`, `temporal-table.csv`, `ventricles-table.csv`) and `definitions.json`
    to `out_dir`. Targets that were never scanned have no truth and are left out. One prediction that fails does not
    stop the rest. Ray must be running.

    Args:
        predictions: the generation's folder or its URL, a Parquet a subject (`generation_record.PREDICTION_SCHEMA`).
        pictures: how many frames to draw.

    Raises:
        ConfigError: scikit-image is not installed, or a folder is not seen by every machine.
        DataError: there are no predictions, a file of them is damaged, one was made twice, or none has a true frame to
            compare with.
    """
    require_scikit_image()
    import ray

    from sadm_ray.progress import progress

    files = _prediction_files(Storage(str(predictions)))
    for place, key in ((study.location, "data.shards"), (str(predictions), "generate.out")):
        require_shared(place, key, "a folder that all nodes share, or a URL")
    queries = _read_queries(files)
    dataset = ray.data.from_items([{"file": file} for file in files], override_num_blocks=len(files))
    change = mean_change(study, _pairs(queries))
    about = {"study": study, "change": None if change is None else ray.put(change), "scans": scans_of(study)}
    with progress("evaluate", len(queries)) as reporter:
        results = dataset.map(score_file, fn_kwargs={"reporter": reporter, **about}).take_all()
    scored = [SubjectScores(**json.loads(each["scored"])) for each in results]
    rows = pd.DataFrame([row for each in scored for row in each.metrics], columns=METRICS_COLUMNS)
    if rows.empty:
        raise DataError(f"{predictions}: no predicted frame has a true scan to compare with")
    twice = rows[rows.duplicated([*KEYS, "method"])]
    if not twice.empty:
        raise DataError(
            f"{predictions}: subject {twice['subject'].iloc[0]} is predicted twice; the folder holds more than one "
            "generation: empty it and generate again"
        )
    metrics = _in_order(rows, ["task", "subject", "frame"])
    calibration = pd.DataFrame([row for each in scored for row in each.calibration], columns=CALIBRATION_COLUMNS)
    calibration = calibration.sort_values(["task", "subject", "frame"], ignore_index=True)
    temporal = pd.DataFrame([row for each in scored for row in each.temporal], columns=TEMPORAL_COLUMNS)
    temporal = _in_order(temporal, ["task", "subject"])
    ventricles = pd.DataFrame([row for each in scored for row in each.ventricles], columns=VENTRICLES_COLUMNS)
    ventricles = _in_order(ventricles, ["task", "subject", "frame"])
    table = summarise(metrics)
    whole = {"metrics": metrics, "calibration": calibration, "temporal": temporal, "ventricles": ventricles}
    means = {
        "table": table,
        "calibration-table": summarise_calibration(calibration),
        "temporal-table": summarise_temporal(temporal),
        "ventricles-table": summarise_ventricles(ventricles),
    }
    _write_all(out_dir, whole, means)

    chosen = choose_pictures(metrics, pictures)
    drawing = dataset.flat_map(draw_chosen, fn_kwargs={"chosen": set(chosen), "study": study})
    drawn = drawing.take_all() if chosen else []
    shown = tuple(
        Picture(*key_of(row), caption=chosen[key_of(row)], png=row["png"])
        for row in sorted(drawn, key=lambda row: list(chosen).index(key_of(row)))
        if not row["error"]
    )
    failed = [row for row in [*metrics.to_dict("records"), *drawn] if row["error"]]
    problems = [f"{row['subject']}, {row['task']}, frame {row['frame']}: {row['error']}" for row in failed]
    problems += sorted({line for each in scored for line in each.problems})
    return Evaluation(metrics, table, shown, tuple(problems), calibration, temporal, ventricles)


def _prediction_files(folder: Storage) -> list[str]:
    """The full paths or URLs of all predictions below a folder."""
    try:
        entries = folder.entries()
    except DataError:
        entries = []
    names = [entry.path for entry in entries if entry.path.endswith(".parquet")]
    files = [folder.where(name) for name in names if not name.rpartition("/")[2].startswith(".")]
    if not files:
        raise DataError(f"{folder.location}: no predictions here; generate some first")
    return files


def _read_queries(files: Sequence[str]) -> pd.DataFrame:
    """The `frame` and the `observed` slots of each prediction, without the volumes."""
    tables = []
    for file in files:
        try:
            tables.append(read_predictions(file, columns=["subject", "task", "frame", "observed"]))
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{file}: cannot be read ({reason}); remove it and generate again") from None
    return pa.concat_tables(tables).to_pandas()


def _pairs(queries: pd.DataFrame) -> set[Pair]:
    """The (copied slot, target slot) of all predictions where slots are fixed: their order is that of time."""
    return {
        (last_observed(observed, np.arange(1 + max(frame, *observed)), int(frame)), int(frame))
        for frame, observed in zip(queries["frame"], queries["observed"], strict=True)
        if frame >= 0 and len(observed) and frame not in observed  # false for NaN: a time without a slot
    }


def _in_order(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Sorted by `keys` and then as the methods are shown."""
    ranks = rows["method"].map(rank)
    return rows.assign(rank=ranks).sort_values([*keys, "rank"], ignore_index=True)[list(rows.columns)]


def _write_all(out_dir: Path, whole: Mapping[str, pd.DataFrame], means: Mapping[str, pd.DataFrame]) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, table in whole.items():
        _write(out_dir / f"{name}.parquet", partial(table.to_parquet, index=False))
    for name, table in {**whole, **means}.items():
        _write(out_dir / f"{name}.csv", partial(table.to_csv, index=False))
    definitions = json.dumps(DEFINITIONS, indent=2, ensure_ascii=False) + "\n"
    _write(out_dir / "definitions.json", lambda file: file.write_text(definitions, encoding="utf-8"))


def _write(file: Path, write: Callable[[Path], object]) -> None:
    """Write under another name first: a reader never finds half a file."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    write(unfinished)
    unfinished.replace(file)
