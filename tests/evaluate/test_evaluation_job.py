"""The evaluation job on a tiny study whose scores are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import DataError
from sadm_ray.evaluate.evaluation_job import Evaluation, evaluate_predictions
from sadm_ray.evaluate.example_frames import choose_pictures
from sadm_ray.evaluate.metrics import DEFINITIONS, PSNR_CAP
from sadm_ray.evaluate.score_tables import CALIBRATION_COLUMNS, METRICS_COLUMNS, TABLE_COLUMNS, TEMPORAL_COLUMNS
from sadm_ray.generate.generation_record import PREDICTIONS, write_record
from sadm_ray.storage import Storage
from tests.data.studies import made_row, write_study

pytestmark = pytest.mark.ray

SUBJECTS = ("anna", "ben", "cleo")
TASKS = {"future": ([0], [3]), "missing": ([0, 3], [1, 2])}
TIMES = np.array([0.0, 0.2, 0.3, 1.0], dtype=np.float32)

TAUGHT = ("hans", "uwe")
Predict = Callable[[np.ndarray, list[int], int], np.ndarray]


def true_frames(subject: str) -> np.ndarray:
    """A bright cube that shrinks, over noise that stays: t c d h w."""
    rng = np.random.default_rng(len(subject))
    frames = np.broadcast_to(rng.uniform(0.1, 0.3, (4, 8, 8)), (4, 1, 4, 8, 8)).copy()
    for slot in range(4):
        frames[slot, :, :, slot : 8 - slot, 2:6] += 0.5
    return frames.astype(np.float16)


def perfect(frames: np.ndarray, observed: list[int], target: int) -> np.ndarray:
    return np.stack([frames[target]] * 3)


def copying(frames: np.ndarray, observed: list[int], target: int) -> np.ndarray:
    return frames[[max(slot for slot in observed if slot < target)]]


def prediction(subject: str, task: str, frame: int, predict: Predict) -> dict[str, Any]:
    observed = TASKS[task][0]
    row = {"subject": subject, "task": task, "frame": frame, "time": float(TIMES[frame]), "observed": observed}
    row["files"] = []
    return row | packed(predict(true_frames(subject), observed, frame)) | {"error": ""}


def packed(samples: np.ndarray) -> dict[str, Any]:
    return {"samples": samples.astype("<f2").tobytes(), "shape": list(samples.shape)}


@pytest.fixture(scope="module")
def study(ray_local: object, tmp_path_factory: pytest.TempPathFactory) -> Study:
    rows = [made_row(name, true_frames(name)[:, 0], times=TIMES) for name in (*SUBJECTS, *TAUGHT)]
    gap = made_row("gap", true_frames("anna")[:, 0], [True, False, True, True], TIMES)
    subjects = {"train": TAUGHT, "val": (), "test": (*SUBJECTS, "gap")}
    return write_study(tmp_path_factory.mktemp("study"), [*rows, gap], subjects)


def evaluate(study: Study, folder: Path, rows: list[dict[str, Any]], **options: Any) -> Evaluation:
    for subject in {row["subject"] for row in rows}:
        write_record(Storage(str(folder)), subject, "key", [row for row in rows if row["subject"] == subject])
    return evaluate_predictions(study, folder / PREDICTIONS, folder / "evaluation", **options)


def all_predictions(predict: Predict) -> list[dict[str, Any]]:
    return [
        prediction(subject, task, frame, predict)
        for subject in SUBJECTS
        for task, (_, targets) in TASKS.items()
        for frame in targets
    ]


def test_a_perfect_predictor_reaches_the_cap(study: Study, tmp_path: Path) -> None:
    found = evaluate(study, tmp_path, all_predictions(perfect), pictures=3)
    table = found.table.set_index(["task", "method"])
    for task in TASKS:
        for method in ("sample", "mean of 3"):
            row = table.loc[(task, method)]
            assert row[["psnr", "psnr_changed"]].tolist() == [PSNR_CAP, PSNR_CAP]
            assert row["ssim"] == pytest.approx(1)
            assert row["nrmse"] == 0
            assert row["better"] == row["subjects"] == len(SUBJECTS)
    assert ("missing", "interpolation") in table.index
    assert ("future", "interpolation") not in table.index  # the target does not lie between two observed frames
    assert table.loc[("missing", "copy-last"), "frames"] == 6
    assert not found.problems

    assert [picture.task for picture in found.pictures] == ["future", "future", "missing"]
    assert all(picture.png.startswith(b"\x89PNG") for picture in found.pictures)

    written = tmp_path / "evaluation"
    names = {file.name for file in written.iterdir()}
    whole = ("metrics", "calibration", "temporal", "ventricles", "structures", "derived")
    means = ("table", *(f"{name}-table" for name in whole[1:]))
    expected = {f"{name}.csv" for name in (*whole, *means)} | {f"{name}.parquet" for name in whole}
    assert found.ventricles.empty  # nothing is labelled
    assert found.structures.empty
    assert names == expected | {"definitions.json"}
    pd.testing.assert_frame_equal(pd.read_parquet(written / "metrics.parquet"), found.metrics)
    assert list(found.metrics.columns) == METRICS_COLUMNS
    assert list(pd.read_csv(written / "table.csv").columns) == [*TABLE_COLUMNS, "split"]
    assert json.loads((written / "definitions.json").read_text()) == DEFINITIONS


def test_naive_baselines_are_scored_where_they_are_defined(study: Study, tmp_path: Path) -> None:
    rows = [prediction("cleo", "future", 3, perfect) | {"observed": observed} for observed in ([0, 1],)]
    rows += [prediction("cleo", "missing", frame, perfect) for frame in (1, 2)]
    found = evaluate(study, tmp_path, rows, pictures=0).metrics
    methods = found.groupby(["task", "frame"])["method"].apply(list)
    model = ["sample", "mean of 3"]
    assert methods["future", 3] == ["copy-last", "copy-first", "extrapolation", "mean change", *model]
    assert methods["missing", 1] == ["copy-last", "mean change", "interpolation", *model]
    numbers = found.set_index(["frame", "method"])
    assert (numbers["crps_changed"] - numbers["mae_changed"]).abs().max() < 1e-9  # all samples are alike
    # All cubes shrink by as much, but not evenly in time: the mean rate is nearer than standing still.
    assert numbers.loc[(3, "mean change"), "mae"] < numbers.loc[(3, "copy-last"), "mae"]


def test_calibration_and_consistency_in_time_are_scored(study: Study, tmp_path: Path) -> None:
    def spread(frames: np.ndarray, observed: list[int], target: int) -> np.ndarray:
        noise = np.random.default_rng(target).normal(0, 0.05, (4, *frames[target].shape))
        return frames[target] + noise

    found = evaluate(study, tmp_path, all_predictions(spread), pictures=0)
    assert list(found.calibration.columns) == CALIBRATION_COLUMNS
    assert found.calibration["samples"].tolist() == [4] * 9
    assert found.calibration["spread"].mean() == pytest.approx(0.05 * np.sqrt(1.25), rel=0.1)
    assert found.calibration["coverage_95"].min() > 0.95  # the truth lies at the distribution's mean
    assert list(found.temporal.columns) == TEMPORAL_COLUMNS
    temporal = found.temporal[found.temporal["subject"] == "ben"].set_index("method")
    assert list(temporal.index) == ["copy-last", "mean change", "interpolation", "sample", "mean of 4"]
    assert set(temporal["task"]) == {"missing"}
    assert set(temporal["frames"]) == {2}
    assert temporal.loc["sample", "flicker"] > temporal.loc["mean of 4", "flicker"]
    assert temporal.loc["copy-last", "flicker"] < 0


def test_copying_scores_as_copy_last_does(study: Study, tmp_path: Path) -> None:
    found = evaluate(study, tmp_path, all_predictions(copying), pictures=0)
    table = found.table.set_index(["task", "method"])
    for task in TASKS:
        pd.testing.assert_series_equal(table.loc[(task, "sample")], table.loc[(task, "copy-last")], check_names=False)
        assert table.loc[(task, "sample"), "delta_psnr"] == 0
    assert "mean of 1" not in set(found.metrics["method"])
    assert found.pictures == ()


def test_a_bad_prediction_is_listed_and_the_rest_is_scored(study: Study, tmp_path: Path) -> None:
    stranger = prediction("anna", "future", 3, perfect) | {"subject": "nobody"}
    broken = prediction("ben", "future", 3, perfect)
    broken |= packed(np.full(broken["shape"], np.nan))
    blind = prediction("anna", "missing", 2, perfect) | {"subject": "gap", "observed": [0, 1]}
    unknowable = prediction("anna", "missing", 1, perfect) | {"subject": "gap"}  # no true frame there: no row
    failed = prediction("ben", "missing", 1, perfect) | {"frame": -1, "samples": None, "error": "not generated"}
    at_a_time = prediction("anna", "missing", 1, perfect) | {"frame": None, "samples": None}  # no slot: no row
    failed |= {"time": float("nan"), "observed": []}
    rows = [prediction("anna", "future", 3, perfect), stranger, broken, blind, unknowable, failed, at_a_time]
    found = evaluate(study, tmp_path, rows)

    assert [problem.split(":")[0] for problem in found.problems] == [
        "ben, future, frame 3",
        "nobody, future, frame 3",
        "ben, missing, frame -1",
        "gap, missing, frame 2",
    ]
    assert "not finite" in found.problems[0]
    assert "frame 1 is said to be observed" in found.problems[3]
    assert set(found.metrics["subject"]) == {"anna", "ben", "nobody", "gap"}
    assert found.table["subjects"].tolist() == [1, 1, 1, 1]
    assert [picture.subject for picture in found.pictures] == ["anna"]


def test_no_predictions_and_doubled_ones_are_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no predictions here"):
        evaluate_predictions(study, tmp_path / "nothing", tmp_path / "evaluation")
    with pytest.raises(DataError, match="anna is predicted twice"):
        evaluate(study, tmp_path, [prediction("anna", "future", 3, perfect)] * 2)
    file = tmp_path / PREDICTIONS / "anna.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"anna\.parquet: cannot be read .* generate again"):
        evaluate_predictions(study, file.parent, tmp_path / "evaluation")


def test_pictures_are_spread_over_the_ranks_not_picked() -> None:
    common = {"task": "t", "frame": 1, "time": 0.0, "psnr_changed": 0.0, "ssim": 0.0, "nrmse": 0.0, "error": ""}
    metrics = pd.DataFrame(
        [
            {**common, "subject": f"s{i}", "method": method, "psnr": 20 + i * (method == "sample")}
            for i in range(9)
            for method in ("copy-last", "sample")
        ]
    )
    assert [subject for subject, _, _ in choose_pictures(metrics, 3)] == ["s1", "s4", "s7"]
    assert [subject for subject, _, _ in choose_pictures(metrics, 1)] == ["s4"]
    assert len(choose_pictures(metrics, 100)) == 9
