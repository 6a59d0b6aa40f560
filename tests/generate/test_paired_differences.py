"""Differences of structures under two treatments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sadm_ray.generate.paired_differences import (
    DIFFERENCES,
    DIFFERENCES_COLUMNS,
    difference_rows,
    differences_table,
    pairs_of,
)
from sadm_ray.generate.request import Request
from sadm_ray.generate.structure_volumes import write_table
from sadm_ray.generate.volume_corrections import VolumeCorrection
from sadm_ray.storage import Storage

PLAIN = Request("visits", 4, 0, times=(2.0,))
A, B, C = (PLAIN.under({"arm": level}) for level in "ABC")


def rows(request: Request, sizes: list[float], **changed: Any) -> list[dict[str, Any]]:
    """Of the estimate, then of each sample."""
    about = {"subject": "s", "task": request.name, "frame": None, "time": 2.0, "structure": "cavity"}
    about |= {"origin": "generated"} | changed
    return [about | {"sample": number, "ml": size, "voxels": 10 * size} for number, size in enumerate(sizes)]


def test_requests_that_differ_in_what_is_given_alone_are_pairs() -> None:
    assert pairs_of([PLAIN, A, B, C]) == [(A, B), (A, C), (B, C)]
    others = [Request("visits", 4, 1, times=(2.0,)), Request("visits", 4, 0, times=(3.0,)), Request("x", 4, 0)]
    assert pairs_of([A, *(each.under({"arm": "B"}) for each in others)]) == []


def test_the_interval_is_that_of_the_differences_sample_by_sample() -> None:
    drawn_a, drawn_b = np.array([50.0, 60.0, 70.0, 55.0]), np.array([44.0, 55.0, 63.0, 50.0])
    volumes = rows(A, [58, *drawn_a]) + rows(B, [53, *drawn_b]) + rows(A, [1.0], origin="observed")
    (found,) = difference_rows(volumes, [A, B], 0.8)
    assert found["given"] == "arm=B"
    assert found["minus"] == "arm=A"
    assert (found["task"], found["samples"], found["estimate_ml"]) == ("visits", 4, -5.0)
    apart = drawn_b - drawn_a
    assert found["median_ml"] == np.median(apart)
    half = stats.t.ppf(0.9, 3) * apart.std(ddof=1) * math.sqrt(1.25)
    assert found["low_ml"] == pytest.approx(apart.mean() - half)
    assert found["high_ml"] == pytest.approx(apart.mean() + half)
    assert found["low_voxels"] == pytest.approx(10 * found["low_ml"])


def test_the_corrected_interval_is_as_wide_as_the_volumes_of_held_out_subjects_need() -> None:
    volumes = rows(A, [5, 6, 7, 9]) + rows(B, [4, 5, 7, 8])
    factors = {
        ("s", A.name, "cavity"): VolumeCorrection(2.0, 12, "x"),
        ("s", B.name, "cavity"): VolumeCorrection(3.0, 9, "x"),
    }
    (found,) = difference_rows(volumes, [A, B], 0.9, factors)
    width, corrected = (found[f"{end}high_ml"] - found[f"{end}low_ml"] for end in ("", "corrected_"))
    assert corrected == pytest.approx(3.0 * width)
    assert found["held_out"] == 9
    (alone,) = difference_rows(volumes, [A, B], 0.9)
    assert math.isnan(alone["corrected_low_ml"])
    assert alone["held_out"] == 0


def test_what_one_of_the_two_lacks_is_not_compared() -> None:
    elsewhere = rows(A, [5, 6, 7]) + rows(B, [5, 6, 7], time=3.0) + rows(B, [5, 6], structure="wall")
    assert list(difference_rows(elsewhere, [A, B], 0.9)) == []
    (found,) = difference_rows(rows(A, [5, 6, 7]) + rows(B, [4, 5]), [A, B], 0.9)
    assert found["samples"] == 1
    assert math.isnan(found["low_ml"])
    (found,) = difference_rows(rows(A, [5]) + rows(B, [4]), [A, B], 0.9)
    assert (found["samples"], found["estimate_ml"]) == (0, -1)
    assert math.isnan(found["median_ml"])


def test_the_table_is_there_while_there_are_differences(tmp_path: Path) -> None:
    out = Storage(str(tmp_path))
    volumes = rows(A, [5, 6, 7]) + rows(B, [4, 5, 7])
    write_table(out, DIFFERENCES, differences_table([volumes, []], [[A, B], []], 0.9))
    table = pd.read_csv(tmp_path / DIFFERENCES)
    assert list(table.columns) == DIFFERENCES_COLUMNS
    assert table["frame"].isna().all()
    write_table(out, DIFFERENCES, differences_table([], [], 0.9))
    assert not (tmp_path / DIFFERENCES).exists()
