"""Curves and tables of volumes in the report, from the tables that generation and evaluation write."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sadm_ray.config import DerivedSettings
from sadm_ray.evaluate.evaluation_job import Evaluation
from sadm_ray.evaluate.score_tables import DERIVED_SCORES_COLUMNS, STRUCTURES_COLUMNS
from sadm_ray.generate.structure_volumes import SUMMARY, summarise_volumes, volume_rows, volumes_table, write_table
from sadm_ray.generate.volume_corrections import VolumeCorrection
from sadm_ray.report.calibration_plots import derived_rows
from sadm_ray.report.html_page import Report, render_report
from sadm_ray.report.representative_subjects import Representative
from sadm_ray.report.viewer import build_viewer
from sadm_ray.report.volume_curves import VolumesSection, volumes_section
from sadm_ray.storage import Storage
from tests.report.made import make_run

NAMES = ("cavity", "wall", "fat", "air", "bone")
ANNA = Representative("future T1w", "best", "anna", 30.0, 2.0, 4)
AGAIN = Representative("future FLAIR", "best", "anna", 30.0, 1.0, 4)
BEN = Representative("future T1w", "worst", "ben", 20.0, -1.0, 4)


def write_summary(folder: Path, *, corrected: bool, voxel_ml: float | None = 0.01, fitted_for: str = "future") -> None:
    """Of anna: observed at 60 and 61, predicted at 62 and 63; ben has no label maps."""
    rng = np.random.default_rng(0)
    sizes = {"voxel_ml": voxel_ml, "own_voxels": 1.0}
    rows = []
    for slot in range(4):
        about = {"subject": "anna", "task": "future", "frame": slot, "time": 60.0 + slot}
        middle = np.array([1000.0, 500, 5000, 20, 10]) + 50 * slot
        voxels = middle[None] if slot < 2 else np.vstack([middle, rng.normal(middle, 40 * slot, (4, 5)).clip(1)])
        rows += volume_rows(voxels, NAMES, about, "observed" if slot < 2 else "generated", **sizes)
    corrections = (
        {("anna", "future", name): VolumeCorrection(2.0, 12, fitted_for) for name in NAMES} if corrected else {}
    )
    summary = summarise_volumes(volumes_table(rows), 0.9, corrections)
    write_table(Storage(str(folder)), SUMMARY, summary)


def scores() -> pd.DataFrame:
    """The truth of the last visit, twice: of both contrasts."""
    key = {"subject": "anna", "frame": 3, "structure": "cavity", "true_ml": 11.7, "true_voxels": 1170.0}
    rows = [{**key, "task": task, "method": "estimate"} for task in ("future T1w", "future FLAIR")]
    return pd.DataFrame(rows, columns=STRUCTURES_COLUMNS)


def section(folder: Path, derived: tuple[DerivedSettings, ...] = ()) -> VolumesSection:
    found = volumes_section(str(folder / "predictions"), scores(), [ANNA, AGAIN, BEN], "years", derived)
    assert found is not None
    return found


def test_a_curve_a_subject_and_task_that_has_label_maps(tmp_path: Path) -> None:
    write_summary(tmp_path, corrected=True)
    (curves,) = section(tmp_path).curves
    assert curves.caption == (
        "anna, future: the best of 4. Band: the interval of 90\N{NO-BREAK SPACE}%, corrected on 12 held-out subjects; "
        "volumes-summary.csv has 1 more."
    )
    picture = np.asarray(Image.open(io.BytesIO(curves.png)).convert("RGB"))
    assert picture.std() > 10
    write_summary(tmp_path, corrected=False)
    (other,) = section(tmp_path).curves
    assert "the samples’ own interval of 90\N{NO-BREAK SPACE}%, which is not calibrated" in other.caption
    assert other.png != curves.png
    write_summary(tmp_path, corrected=True, fitted_for="")
    assert "corrected on 12 held-out subjects for other tasks" in section(tmp_path).curves[0].caption


def test_the_table_has_observed_and_predicted_visits_and_the_truth(tmp_path: Path) -> None:
    write_summary(tmp_path, corrected=True)
    table = section(tmp_path).table
    assert len(table) == 4 * len(NAMES), "once, though there are two contrasts"
    cavity = table[table["structure"] == "cavity"].set_index("time")
    assert cavity["observed"].tolist() == ["10.0", "10.5", "–", "–"]
    assert cavity["estimate"].tolist() == ["–", "–", "11.0", "11.5"]
    assert cavity["true"].tolist() == ["–", "–", "–", "11.7"]
    assert cavity["held out"].tolist() == ["–", "–", "12", "12"]
    assert " to " in cavity["corrected"]["62"]
    assert cavity["corrected"]["60"] == "–"
    write_summary(tmp_path, corrected=True, voxel_ml=None)
    table = section(tmp_path).table
    assert set(table["unit"]) == {"voxels"}
    assert "1000" in table["observed"].tolist()


def test_what_is_derived_is_drawn_first(tmp_path: Path) -> None:
    write_summary(tmp_path, corrected=False)
    bone = DerivedSettings(name="x", kind="ejection_fraction", structures=("bone",))
    assert section(tmp_path, (bone,)).curves[0].png != section(tmp_path).curves[0].png, "the smallest has a place"


def test_without_label_maps_there_is_no_section(tmp_path: Path) -> None:
    assert volumes_section(str(tmp_path / "predictions"), scores(), [ANNA], "years") is None
    write_summary(tmp_path, corrected=True)
    assert volumes_section(str(tmp_path / "predictions"), scores(), [BEN], "years") is None


@pytest.mark.parametrize("corrected", [True, False])
def test_the_page_shows_curves_and_derived_numbers(tmp_path: Path, corrected: bool) -> None:
    write_summary(tmp_path, corrected=corrected)
    run = make_run(tmp_path / "run")
    evaluation, viewer = run.evaluation, build_viewer(run.study, run.predictions, run.evaluation.metrics)
    number = {"task": "future", "method": "estimate", "name": "ef", "subject": "anna", "frame": 3, "true": 50.0}
    number |= {"predicted": 47.0, "error": 3.0, "interval_level": 0.9, "interval_width": 12.0, "interval_holds": 1.0}
    number |= {"corrected_width": math.nan, "corrected_holds": math.nan}
    derived = pd.DataFrame([number], columns=DERIVED_SCORES_COLUMNS)
    assert derived_rows(derived).to_numpy().tolist() == [
        ["future", "estimate", "ef", "1", "50.0", "47.0", "3.0", "100 % of 90 %", "12.0", "", "–"]
    ]
    found = Evaluation(**{**vars(evaluation), "derived": derived, "structures": _with_scores(scores())})
    page = render_report(Report("A run", "now", found, viewer=viewer, volumes=section(tmp_path)))
    assert "Volumes over time" in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "anna, future: the best of 4." in page
    assert "Derived numbers by task and method" in page
    assert "Volumes over time" not in render_report(Report("A run", "now", evaluation))


def _with_scores(structures: pd.DataFrame) -> pd.DataFrame:
    return structures.fillna({name: 0.5 for name in structures if structures[name].isna().all()})
