"""The plots and rows of calibration and of consistency in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from sadm_ray.evaluate.score_tables import CALIBRATION_COLUMNS
from sadm_ray.report.calibration_plots import (
    calibration_rows,
    draw_coverage,
    draw_spread,
    structure_rows,
    temporal_rows,
    ventricle_rows,
)
from tests.report.made import make_run


def test_every_task_has_its_line_and_its_row(tmp_path: Path) -> None:
    found = make_run(tmp_path).evaluation
    for png in (draw_coverage(found.calibration), draw_spread(found.calibration)):
        assert png is not None
        assert png.startswith(b"\x89PNG")
    rows = calibration_rows(found.calibration)
    assert rows["task"].tolist() == ["future", "missing"]
    assert rows["in the 90 % interval"].str.endswith(" %").all()
    assert temporal_rows(found.temporal).to_numpy().tolist() == [["missing", "sample", "0.0300", "+0.0100"]]


def test_ventricle_rows_have_the_error_of_the_measure() -> None:
    row = {"task": "es", "method": "sample", "structure": "LV cavity", "subject": "anna", "frame": 3}
    ml = {"true_ml": 60.0, "predicted_ml": 52.0, "error_ml": 8.0, "own_error_ml": 2.5}
    rows = ventricle_rows(pd.DataFrame([row | ml, row | ml | {"subject": "ben", "error_ml": 10.0}]))
    assert rows.to_numpy().tolist() == [["es", "sample", "LV cavity", "2", "60.0", "52.0", "9.0", "2.5"]]


def test_nothing_measured_is_no_plot(tmp_path: Path) -> None:
    nothing = pd.DataFrame(columns=CALIBRATION_COLUMNS)
    unknown = (
        make_run(tmp_path).evaluation.calibration.head(2).assign(**dict.fromkeys(CALIBRATION_COLUMNS[4:-1], np.nan))
    )
    for calibration in (nothing, unknown):
        assert draw_coverage(calibration) is None
        assert draw_spread(calibration) is None
    assert calibration_rows(unknown)["spread"].tolist() == ["–", "–"]


def test_structure_rows_say_what_is_not_known() -> None:
    row = {"task": "es", "method": "copy-last", "structure": "cortex", "subject": "anna", "frame": 3}
    scores = {"dice": 0.8, "hd95_mm": 3.0, "true_ml": 60.0, "predicted_ml": 52.0, "error_ml": 8.0, "empty": 0.0}
    scores |= {"true_voxels": 600.0, "predicted_voxels": 520.0}
    scores |= {"interval_level": 0.9, "interval_ml": 12.0, "interval_holds": 1.0}
    scores |= {"corrected_ml": 15.0, "corrected_holds": 1.0, "held_out": 12.0}
    unknown = dict.fromkeys(("hd95_mm", "true_ml", "predicted_ml", "error_ml"), np.nan)
    both = [row | scores, row | scores | unknown | {"subject": "ben", "dice": 0.9}]
    expected = ["es", "copy-last", "cortex", "2", "0.850", "3.0", "60.0", "52.0", "8.0", "600", "520"]
    intervals = ["100 % of 90 %", "12.0", "100 % of 90 %", "15.0", "12"]
    assert structure_rows(pd.DataFrame(both)).to_numpy().tolist() == [expected + intervals]
    assert structure_rows(pd.DataFrame(both[1:])).to_numpy().tolist() == [
        ["es", "copy-last", "cortex", "1", "0.900", "–", "–", "–", "–", "600", "520", *intervals]
    ]
