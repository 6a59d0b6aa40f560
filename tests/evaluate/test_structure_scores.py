"""Dice, distances and volumes of known shapes; MONAI has the same distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sadm_ray.data.label_maps import LabelMaps, PreparedLabels
from sadm_ray.data.normalise.spatial import SpatialTransform
from sadm_ray.evaluate.structure_scores import dice, hausdorff_95, structure_rows
from tests.data.studies import AFFINE

SPACING = (8.0, 1.5, 1.5)
NAMES = {1: "core", 2: "shell", 3: "shell", 9: "nowhere"}


def cube(start: int, stop: int, shape: tuple[int, int, int] = (10, 20, 20)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[2:6, start:stop, 4:12] = True
    return mask


def maps(*, known: bool = True) -> LabelMaps:
    """Of a grid as large as the scan's own, with half as many slices."""
    grid = SpatialTransform((20, 20, 20), (0, 1, 2), (False,) * 3, ((0, 20),) * 3, (10, 20, 20), (10, 20, 20))
    return LabelMaps("anna", None, [None], grid, SPACING, 2.0, 4 * 1.5 * 1.5 / 1000 if known else None, AFFINE)


def test_dice_of_cubes() -> None:
    assert dice(cube(4, 12), cube(4, 12)) == 1
    assert dice(cube(4, 12), cube(6, 14)) == pytest.approx(2 * 6 / 16)
    assert dice(cube(4, 8), cube(10, 14)) == 0
    assert dice(cube(4, 8), cube(0, 0)) == 0
    assert math.isnan(dice(cube(0, 0), cube(0, 0)))


def test_distance_is_in_mm_along_each_axis() -> None:
    one, beyond = np.zeros((9, 20, 20), bool), np.zeros((9, 20, 20), bool)
    one[2, 5, 5] = True
    for step, away in (((3, 0, 0), 24.0), ((0, 6, 0), 9.0), ((0, 3, 4), 7.5)):
        beyond[:] = False
        beyond[2 + step[0], 5 + step[1], 5 + step[2]] = True
        assert hausdorff_95(one, beyond, SPACING) == pytest.approx(away)
        assert hausdorff_95(beyond, one, SPACING) == pytest.approx(away)
    assert hausdorff_95(one, one, SPACING) == 0
    assert math.isnan(hausdorff_95(one, np.zeros_like(one), SPACING))


def test_a_few_stray_voxels_do_not_make_the_distance() -> None:
    stray = cube(4, 12)
    stray[9, 19, 19] = True
    assert hausdorff_95(cube(4, 12), stray, SPACING) == 0


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_those_of_monai(seed: int) -> None:
    metrics = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(seed)
    smooth = [np.cumsum(rng.normal(0, 1, (8, 16, 16)), axis=axis) for axis in (0, 1)]
    truth, predicted = (field > 1.0 for field in smooth)
    both = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, truth)]
    expected = metrics.compute_hausdorff_distance(*both, include_background=True, percentile=95, spacing=SPACING)
    assert hausdorff_95(truth, predicted, SPACING) == pytest.approx(float(expected), abs=1e-4)
    assert dice(truth, predicted) == pytest.approx(float(metrics.compute_dice(*both)), abs=1e-6)


def labelled(start: int, stop: int, *, shell: bool = True) -> PreparedLabels:
    labels = cube(start, stop).astype(np.int32)
    if shell:
        labels[2:6, 0:2, 0], labels[2:6, 0:2, 1] = 2, 3
    volumes = {"core": 2 * int((labels == 1).sum()), "shell": 2 * int((labels > 1).sum()), "nowhere": 0}
    return PreparedLabels(labels, NAMES, volumes)


def test_rows_of_structures() -> None:
    rows = list(structure_rows(labelled(4, 12), [("copy-last", labelled(6, 12))], maps()))
    assert [(row["method"], row["structure"]) for row in rows] == [("copy-last", "core"), ("copy-last", "shell")]
    core, shell = rows
    voxel_ml = 8 * 1.5 * 1.5 / 1000
    assert core["true_ml"] == pytest.approx(4 * 8 * 8 * voxel_ml)
    assert core["predicted_ml"] == pytest.approx(4 * 6 * 8 * voxel_ml)
    assert core["error_ml"] == pytest.approx(4 * 2 * 8 * voxel_ml)
    assert (core["true_voxels"], core["predicted_voxels"]) == (2 * 256, 2 * 192), "of the scan's own grid"
    assert core["dice"] == pytest.approx(2 * 6 / 14)
    assert core["hd95_mm"] == pytest.approx(3.0)
    assert (shell["dice"], shell["hd95_mm"], shell["empty"]) == (1, 0, 0)
    assert shell["true_voxels"] == 2 * 16


def test_a_structure_that_one_map_lacks() -> None:
    with_shell, without = labelled(4, 12), labelled(4, 12, shell=False)
    for truth, predicted in ((with_shell, without), (without, with_shell)):
        _, shell = structure_rows(truth, [("x", predicted)], maps())
        assert (shell["dice"], shell["empty"]) == (0, 1)
        assert math.isnan(shell["hd95_mm"])
        assert shell["error_ml"] > 0


def test_without_voxel_sizes_there_are_voxels_only() -> None:
    core, _ = structure_rows(labelled(4, 12), [("x", labelled(6, 12))], maps(known=False))
    assert all(math.isnan(core[name]) for name in ("hd95_mm", "true_ml", "predicted_ml", "error_ml"))
    assert (core["true_voxels"], core["dice"]) == (512, pytest.approx(12 / 14))


def test_structures_go_by_name() -> None:
    """Another table of names numbers them differently."""
    other = PreparedLabels(np.where(cube(4, 12), 7, 0).astype(np.int32), {7: "core"}, {"core": 500.5})
    core, shell = structure_rows(labelled(4, 12), [("x", other)], maps())
    assert (core["dice"], core["predicted_voxels"]) == (1, 500.5)
    assert (shell["dice"], shell["predicted_voxels"]) == (0, 0)


def test_a_structure_too_small_for_the_grid_has_its_volume() -> None:
    tiny = PreparedLabels(np.zeros((10, 20, 20), np.int32), {1: "core"}, {"core": 3})
    (row,) = structure_rows(tiny, [("x", tiny)], maps())
    assert (row["true_voxels"], row["error_ml"], row["empty"]) == (3, 0, 1)
    assert math.isnan(row["dice"])


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="the predicted one"):
        dice(cube(4, 8), cube(4, 8)[1:])
    with pytest.raises(ValueError, match="the predicted one"):
        hausdorff_95(cube(4, 8), cube(4, 8)[1:], SPACING)
