from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sadm_ray.data.read.visit_comparison import BesideFirst, VisitComparison

VOXEL = (2.0, 1.5, 1.0)  # d h w, mm


def head(grown: float = 0.0) -> np.ndarray:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in (30, 60, 70)), indexing="ij")
    ventricle = (x / (0.15 + grown)) ** 2 + (y / (0.3 + grown)) ** 2 + (z / 0.3) ** 2 < 1
    brain = x**2 / 0.4 + y**2 / 0.5 + z**2 / 0.5 < 1
    return gaussian_filter(np.where(ventricle, 200, np.where(brain, 800, 10)).astype(np.float32), 1)


def beside(visit: np.ndarray) -> BesideFirst:
    checks = VisitComparison()
    assert checks.beside_first(head(), VOXEL) is None
    found = checks.beside_first(visit.astype(np.float32), VOXEL)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "visit", [head(), 16 * head(), 0.05 * head() + 3, head(0.15)], ids=["same", "x16", "gain", "grown"]
)
def test_gain_and_growth_are_no_displacement(visit: np.ndarray) -> None:
    found = beside(visit)
    assert found.move == 0
    assert found.warnings == []


def test_the_level_is_beside_the_first() -> None:
    assert beside(16 * head()).level == pytest.approx(16, rel=1e-3)


@pytest.mark.parametrize(("move", "mm"), [((0, 0, 9), 9.0), ((0, 8, 0), 12.0), ((-4, 6, 0), 12.04)])
def test_a_displaced_visit_is_told_with_its_distance(move: tuple[int, int, int], mm: float) -> None:
    found = beside(np.roll(head(), move, (0, 1, 2)) * 3)
    assert found.move == pytest.approx(mm, abs=2.5)
    assert found.correlation < found.moved_correlation
    (line,) = found.warnings
    assert "data.register=rigid" in line


def test_a_visit_of_something_else_is_told() -> None:
    (line,) = beside(np.random.default_rng(0).random((30, 60, 70)) * 100).warnings
    assert "wherever it is moved" in line
