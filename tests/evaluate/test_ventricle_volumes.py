"""A bright sphere that shrinks within grey tissue: its volume is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sadm_ray.evaluate.ventricle_volumes import STRUCTURES, propagated_volumes, ventricle_rows

SPACING = (6.0, 1.5, 1.5)
LV = "LV cavity"


def sphere(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """An image with a soft border and its label; a radius in mm."""
    z, y, x = (np.arange(size) * step for size, step in zip((12, 48, 48), SPACING, strict=True))
    away = np.sqrt((z[:, None, None] - 33) ** 2 + (y[:, None] - 36) ** 2 + (x - 36) ** 2)
    image = 0.2 + 0.6 / (1 + np.exp((away - radius) / 1.0))
    return image, STRUCTURES[LV] * (away < radius).astype(np.int64)


LARGE, SMALL = sphere(25.0), sphere(20.0)


def ml(radius: float) -> float:
    return 4 / 3 * math.pi * radius**3 / 1000


def test_an_image_that_stays_keeps_its_volume() -> None:
    found = propagated_volumes(*LARGE, LARGE[0], SPACING)
    assert found[LV] == pytest.approx(ml(25.0), rel=0.03)
    assert found["RV cavity"] == found["myocardium"] == 0


def test_the_labels_shrink_with_the_sphere() -> None:
    assert propagated_volumes(*LARGE, SMALL[0], SPACING)[LV] == pytest.approx(ml(20.0), rel=0.08)


def test_errors_are_against_the_labels_and_the_measure_has_its_own() -> None:
    generated = [("copy-last", LARGE[0]), ("half way", sphere(22.5)[0])]
    rows = list(ventricle_rows(*LARGE, *SMALL, generated, SPACING))
    assert [(row["method"], row["structure"]) for row in rows] == [("copy-last", LV), ("half way", LV)]
    copied, half = rows
    assert copied["true_ml"] == half["true_ml"] == pytest.approx(ml(20.0), rel=0.03)
    assert copied["error_ml"] == copied["predicted_ml"] - copied["true_ml"] == pytest.approx(ml(25) - ml(20), rel=0.05)
    assert copied["own_error_ml"] == half["own_error_ml"] < 0.15 * copied["error_ml"]
    assert half["own_error_ml"] < half["error_ml"] < copied["error_ml"]


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        propagated_volumes(*LARGE, SMALL[0][1:], SPACING)
