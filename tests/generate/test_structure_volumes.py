"""The table of volumes and its intervals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sadm_ray.generate.structure_volumes import (
    SUMMARY,
    SUMMARY_COLUMNS,
    VOLUMES,
    VOLUMES_COLUMNS,
    summarise_volumes,
    volume_rows,
    volumes_table,
    write_table,
)
from sadm_ray.storage import Storage

ABOUT = {"subject": "anna", "task": "future", "frame": 3, "time": 62.5}
NAMES = ("cavity", "wall")


def rows(voxels: np.ndarray, origin: Any = "generated", **more: Any) -> list[dict[str, Any]]:
    return list(volume_rows(voxels, NAMES, ABOUT | more, origin, voxel_ml=0.02, own_voxels=4.0))


def test_a_row_a_structure_of_each_sample() -> None:
    found = rows(np.array([[100.0, 50.0], [120.0, 40.0]]))
    assert list(found[0]) == VOLUMES_COLUMNS
    assert [(row["sample"], row["structure"], row["ml"], row["voxels"]) for row in found] == [
        (0, "cavity", 2.0, 400.0),
        (0, "wall", 1.0, 200.0),
        (1, "cavity", 2.4, 480.0),
        (1, "wall", 0.8, 160.0),
    ]
    (cavity, _) = rows(np.array([[90.0, 50.0]]), "observed", frame=0, time=60.0)
    assert (cavity["sample"], cavity["origin"], cavity["ml"]) == (0, "observed", pytest.approx(1.8))
    with pytest.raises(ValueError, match="what is observed has one volume, not 2"):
        rows(np.ones((2, 2)), "observed")


def test_without_voxel_sizes_there_are_voxels_only() -> None:
    (row, _) = volume_rows(np.ones((1, 2)), NAMES, ABOUT, "generated", voxel_ml=None, own_voxels=4.0)
    assert math.isnan(row["ml"])
    assert row["voxels"] == 4
    table = summarise_volumes(
        pd.DataFrame(
            list(volume_rows(np.arange(8.0).reshape(4, 2), NAMES, ABOUT, "generated", voxel_ml=None, own_voxels=1.0))
        ),
        0.9,
    )
    assert table["estimate_voxels"].tolist() == [0, 1]
    assert table["median_voxels"].tolist() == [4, 5]
    assert table[["estimate_ml", "median_ml", "low_ml", "high_ml"]].isna().all(axis=None)


def test_the_interval_holds_the_next_draw_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(800):
        draws = rng.normal(1000, 50, (7, 2))
        table = summarise_volumes(pd.DataFrame(rows(draws[:6])), 0.9)
        held += ((table["low_voxels"] <= 4 * draws[6]) & (4 * draws[6] <= table["high_voxels"])).tolist()
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)


def test_a_summary_of_samples_and_of_what_is_observed() -> None:
    every = rows(np.array([[110.0, 2.0], [100.0, 1.0], [120.0, 0.0], [104.0, 0.0]])) + rows(
        np.array([[90.0, 50.0]]), "observed"
    )
    table = summarise_volumes(pd.DataFrame(every), 0.9)
    assert list(table.columns) == SUMMARY_COLUMNS
    cavity, wall, seen, _ = table.to_dict("records")
    assert (cavity["estimate_voxels"], cavity["median_voxels"]) == (440, 416)
    assert (cavity["samples"], cavity["level"]) == (3, 0.9)
    assert cavity["low_voxels"] < 400 < 480 < cavity["high_voxels"]
    assert wall["low_voxels"] == 0, "no volume is below 0"
    assert (seen["origin"], seen["estimate_voxels"], seen["samples"]) == ("observed", 360, 0)
    assert math.isnan(seen["low_voxels"])
    with pytest.raises(ValueError, match="level is 90"):
        summarise_volumes(pd.DataFrame(every), 90)


def test_a_table_is_written_whole_and_an_empty_one_is_no_file(tmp_path: Path) -> None:
    volumes = volumes_table([*rows(np.ones((2, 2))), *rows(np.ones((2, 2)), frame=None)])
    out = Storage(str(tmp_path))
    write_table(out, VOLUMES, volumes)
    write_table(out, SUMMARY, summarise_volumes(volumes, 0.8))
    summary = pd.read_csv(tmp_path / SUMMARY)
    assert list(pd.read_csv(tmp_path / VOLUMES).columns) == VOLUMES_COLUMNS
    assert summary["frame"].isna().sum() == 2, "a time without a slot"
    assert (len(volumes), len(summary)) == (8, 4)
    for name in (VOLUMES, SUMMARY):
        write_table(out, name, summarise_volumes(volumes_table([]), 0.8))
    assert not list(tmp_path.iterdir()), "without structures there are none"
