"""The evaluation job: compares predictions with the truth, on Ray Data, and writes tables.

Every subject's predictions are scored where they are read; only numbers and a few pictures come back to the driver.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from sadm_ray.cluster import require_shared
from sadm_ray.config import DerivedSettings
from sadm_ray.data.label_maps import labels_of
from sadm_ray.data.shards.fingerprints import fingerprints
from sadm_ray.data.shards.prepared_study import Study, read_checksums
from sadm_ray.errors import DataError
from sadm_ray.evaluate.example_frames import Picture, choose_pictures, draw_chosen, key_of
from sadm_ray.evaluate.mean_change_baseline import Pair, mean_change_by_contrast
from sadm_ray.evaluate.metrics import DEFINITIONS, require_scikit_image
from sadm_ray.evaluate.naive_baselines import last_observed
from sadm_ray.evaluate.score_tables import (
    CALIBRATION_COLUMNS,
    DERIVED_SCORES_COLUMNS,
    KEYS,
    METRICS_COLUMNS,
    STRUCTURES_COLUMNS,
    TEMPORAL_COLUMNS,
    VENTRICLES_COLUMNS,
    rank,
    summarise,
    summarise_calibration,
    summarise_derived,
    summarise_structures,
    summarise_temporal,
    summarise_ventricles,
    with_contrast,
)
from sadm_ray.evaluate.subject_scores import SubjectScores, score_file
from sadm_ray.generate.derived_numbers import check_derived
from sadm_ray.generate.generation_record import models_of, read_predictions, read_request
from sadm_ray.model.seen_subjects import NOBODY, SeenAs, SeenSubjects
from sadm_ray.storage import Storage

JUDGED: tuple[SeenAs, ...] = ("test", "unknown")
"""Whom a model may be judged on, the better ones first."""

_TASK_VOXELS = 1 << 18
"""Predicted voxels that a task of Ray scores at least: with fewer, its process imports for longer than it scores."""

_COLUMNS = {
    "metrics": METRICS_COLUMNS,
    "calibration": CALIBRATION_COLUMNS,
    "temporal": TEMPORAL_COLUMNS,
    "ventricles": VENTRICLES_COLUMNS,
    "structures": STRUCTURES_COLUMNS,
    "derived": DERIVED_SCORES_COLUMNS,
}

_MEANS: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "calibration": summarise_calibration,
    "temporal": summarise_temporal,
    "ventricles": summarise_ventricles,
    "structures": summarise_structures,
    "derived": summarise_derived,
}


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation found of those who are judged: the subjects that the model has not seen.

    Where a study has several contrasts, `task` in all tables here names the contrast too (`score_tables.shown_task`);
    in the files it has a column of its own.

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
            where no ACDC label maps lie beside the scans (`sadm_ray.data.label_maps`).
        structures: one row a (subject, task, frame, method, structure); see `score_tables.STRUCTURES_COLUMNS`. Empty
            where no label maps are known.
        derived: one row a (subject, task, frame, method, name); see `score_tables.DERIVED_SCORES_COLUMNS`. Empty where
            nothing is derived from volumes.
        remarks: a line for what is odd about label maps that were used.
        split: `test`; or `unknown` where it is not recorded whom the model has seen.
        seen: those whom the models and the sweep have seen.
        others: the same of the other subjects by what they are to the model (`model.seen_subjects.SeenAs`), without
            pictures and problems. They are listed apart, and nothing is concluded from them.
    """

    metrics: pd.DataFrame
    table: pd.DataFrame
    pictures: tuple[Picture, ...]
    problems: tuple[str, ...]
    calibration: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CALIBRATION_COLUMNS))
    temporal: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=TEMPORAL_COLUMNS))
    ventricles: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=VENTRICLES_COLUMNS))
    structures: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=STRUCTURES_COLUMNS))
    derived: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=DERIVED_SCORES_COLUMNS))
    remarks: tuple[str, ...] = ()
    split: SeenAs = "test"
    seen: SeenSubjects = NOBODY
    others: tuple[Evaluation, ...] = ()


def evaluate_predictions(
    study: Study,
    predictions: Path | str,
    out_dir: Path,
    pictures: int = 4,
    derived: Sequence[DerivedSettings] = (),
) -> Evaluation:
    """Score all predictions, and the naive baselines, against the true frames.

    Writes `metrics`, `calibration`, `temporal`, `ventricles`, `structures`, `derived` (as `.parquet` and `.csv`), their
    means over subjects (`table.csv` and, called after the others, `calibration-table.csv` and so on) and
    `definitions.json` to `out_dir`; their column `split` says what the subject is to the model. Targets that were never
    scanned have no truth and are left out. One prediction that fails does not stop the rest. Ray must be running.

    Args:
        predictions: the generation's folder or its URL, a Parquet a subject (`generation_record.PREDICTION_SCHEMA`).
            Beside it lies who has been seen (`model.seen_subjects`).
        pictures: how many frames to draw.
        derived: the numbers that are scored besides volumes.

    Raises:
        ConfigError: scikit-image is not installed, or a folder is not seen by every machine; or a change a year is
            derived where the unit of the times is none.
        DataError: there are no predictions, a file of them is damaged, one was made twice, or none has a true frame to
            compare with.
    """
    require_scikit_image()
    check_derived(derived, study.time_unit)
    import ray

    from sadm_ray.progress import progress

    files = _prediction_files(Storage(str(predictions)))
    for place, key in ((study.location, "data.shards"), (str(predictions), "generate.out")):
        require_shared(place, key, "a folder that all nodes share, or a URL")
    folder = Storage(str(predictions).rstrip("/").rpartition("/")[0])
    seen = SeenSubjects.read(folder)
    splits = {name: seen.seen_as(who) for name, who in fingerprints(study).items()}
    queries = _read_queries(files)
    tasks = max(min(len(files), len(queries) * math.prod(study.shape) // _TASK_VOXELS), 1)
    dataset = ray.data.from_items([{"file": file} for file in files], override_num_blocks=tasks)
    unseen = {name for name, split in splits.items() if split in JUDGED}
    change = mean_change_by_contrast(study, _pairs(queries), leave_out=unseen & set(queries["subject"]))
    labels = labels_of(study)
    about = {
        "study": study,
        "change": None if change is None else ray.put(change),
        "labels": ray.put(labels),
        "checksums": ray.put(read_checksums(study)),
        "derived": tuple(derived),
        "models": models_of(read_request(folder) or {}),
    }
    scored = []
    with progress("evaluate", len(queries)) as counter:
        for each in dataset.map(score_file, fn_kwargs=about).iter_rows():
            counter.add(each["frames"])
            scored.append(SubjectScores(**json.loads(each["scored"])))
    tables = {
        name: _table([row for each in scored for row in getattr(each, name)], columns, splits)
        for name, columns in _COLUMNS.items()
    }
    metrics = tables["metrics"]
    if metrics.empty:
        raise DataError(f"{predictions}: no predicted frame has a true scan to compare with")
    twice = metrics[metrics.duplicated([*KEYS, "method"])]
    if not twice.empty:
        raise DataError(
            f"{predictions}: subject {twice['subject'].iloc[0]} is predicted twice; the folder holds more than one "
            "generation: empty it and generate again"
        )
    found = {split: _of_split(tables, split, seen) for split in dict.fromkeys([*JUDGED, *metrics["split"]])}
    judged = next((found[split] for split in JUDGED if len(found[split].metrics)), found["test"])
    others = tuple(each for each in found.values() if each is not judged and len(each.metrics))
    _write_all(out_dir, tables, [judged, *others])

    chosen = choose_pictures(judged.metrics, pictures)
    drawing = dataset.flat_map(draw_chosen, fn_kwargs={"chosen": set(chosen), "study": study})
    drawn = drawing.take_all() if chosen else []
    shown = tuple(
        Picture(*key_of(row), caption=chosen[key_of(row)], png=row["png"])
        for row in sorted(drawn, key=lambda row: list(chosen).index(key_of(row)))
        if not row["error"]
    )
    failed = [row for row in [*metrics.to_dict("records"), *drawn] if row["error"]]
    problems = [f"{row['subject']}, {row['task']}, frame {row['frame']}: {row['error']}" for row in failed]
    told: dict[bool, set[str]] = {
        True: {line for each in scored for line in each.problems},
        False: {line for each in scored for line in each.remarks},
    }
    for problem in labels.problems if labels else ():
        told[problem.fatal].add(str(problem))
    problems += sorted(told[True])
    remarks = tuple(sorted(told[False]))
    return replace(judged, pictures=shown, problems=tuple(problems), remarks=remarks, others=others)


def _table(rows: list[Mapping[str, Any]], columns: list[str], splits: Mapping[str, SeenAs]) -> pd.DataFrame:
    """The rows in the order in which they are shown, with the `split` of each subject."""
    table = pd.DataFrame(rows, columns=columns)
    table["split"] = [splits.get(name, "unknown") for name in table["subject"]]
    keys = [key for key in ("task", "subject", "frame") if key in columns]
    if "method" not in columns:
        return table.sort_values(keys, ignore_index=True)
    ranks = table["method"].map(rank)
    return table.assign(rank=ranks).sort_values([*keys, "rank"], ignore_index=True)[list(table.columns)]


def _of_split(tables: Mapping[str, pd.DataFrame], split: SeenAs, seen: SeenSubjects) -> Evaluation:
    its = {name: table[table["split"] == split].reset_index(drop=True) for name, table in tables.items()}
    others: dict[str, Any] = {name: its[name] for name in _MEANS}
    return Evaluation(its["metrics"], summarise(its["metrics"]), (), (), split=split, seen=seen, **others)


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
    """The `subject`, the `frame` and the `observed` slots of each prediction, without the volumes."""
    tables = []
    for file in files:
        try:
            tables.append(read_predictions(file, columns=["subject", "task", "contrast", "frame", "observed"]))
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{file}: cannot be read ({reason}); remove it and generate again") from None
    return pa.concat_tables(tables).to_pandas()


def _pairs(all_queries: pd.DataFrame) -> dict[str, set[Pair]]:
    """The (copied slot, target slot) of all predictions of each contrast where slots are fixed: in order of time."""
    return {
        str(contrast): _pairs_of(queries)
        for contrast, queries in all_queries.fillna({"contrast": ""}).groupby("contrast")
    }


def _pairs_of(queries: pd.DataFrame) -> set[Pair]:
    return {
        (last_observed(observed, np.arange(1 + max(frame, *observed)), int(frame)), int(frame))
        for frame, observed in zip(queries["frame"], queries["observed"], strict=True)
        if frame >= 0 and len(observed) and frame not in observed  # false for NaN: a time without a slot
    }


def _write_all(out_dir: Path, whole: Mapping[str, pd.DataFrame], found: Sequence[Evaluation]) -> None:
    """The tables of all subjects, and the means over subjects of each split."""
    out_dir.mkdir(parents=True, exist_ok=True)
    means = {
        "table": pd.concat([each.table.assign(split=each.split) for each in found]),
        **{
            f"{name}-table": pd.concat([mean_of(getattr(each, name)).assign(split=each.split) for each in found])
            for name, mean_of in _MEANS.items()
        },
    }
    for name, table in whole.items():
        _write(out_dir / f"{name}.parquet", partial(with_contrast(table).to_parquet, index=False))
    for name, table in {name: with_contrast(table) for name, table in {**whole, **means}.items()}.items():
        _write(out_dir / f"{name}.csv", partial(table.to_csv, index=False))
    definitions = json.dumps(DEFINITIONS, indent=2, ensure_ascii=False) + "\n"
    _write(out_dir / "definitions.json", lambda file: file.write_text(definitions, encoding="utf-8"))


def _write(file: Path, write: Callable[[Path], object]) -> None:
    """Write under another name first: a reader never finds half a file."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    write(unfinished)
    unfinished.replace(file)
