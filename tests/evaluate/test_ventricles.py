"""A bright sphere that shrinks within grey tissue: its volume is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sadm_ray.evaluate.ventricles import LEFT_CAVITY, MEASURE, propagated_volume, volume_errors

SPACING = (6.0, 1.5, 1.5)


def sphere(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """An image with a soft border and its label; a radius in mm."""
    z, y, x = (np.arange(size) * step for size, step in zip((12, 48, 48), SPACING, strict=True))
    away = np.sqrt((z[:, None, None] - 33) ** 2 + (y[:, None] - 36) ** 2 + (x - 36) ** 2)
    image = 0.2 + 0.6 / (1 + np.exp((away - radius) / 1.0))
    return image, LEFT_CAVITY * (away < radius).astype(np.int64)


LARGE, SMALL = sphere(25.0), sphere(20.0)


def ml(radius: float) -> float:
    return 4 / 3 * math.pi * radius**3 / 1000


def test_an_image_that_stays_keeps_its_volume() -> None:
    assert propagated_volume(*LARGE, LARGE[0], SPACING) == pytest.approx(ml(25.0), rel=0.03)
    assert propagated_volume(*LARGE, LARGE[0], SPACING, which=1) == 0


def test_the_label_shrinks_with_the_sphere() -> None:
    assert propagated_volume(*LARGE, SMALL[0], SPACING) == pytest.approx(ml(20.0), rel=0.08)


def test_errors_are_against_the_label_and_the_measure_has_its_own() -> None:
    errors = volume_errors(*LARGE, *SMALL, {"copy-last": LARGE[0], "half way": sphere(22.5)[0]}, SPACING)
    assert errors["copy-last"] == pytest.approx(ml(25.0) - ml(20.0), rel=0.05)
    assert errors[MEASURE] < 0.15 * errors["copy-last"]
    assert errors[MEASURE] < errors["half way"] < errors["copy-last"]


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        propagated_volume(*LARGE, SMALL[0][1:], SPACING)
    with pytest.raises(ValueError, match="can be called 'truth'"):
        volume_errors(*LARGE, *SMALL, {MEASURE: SMALL[0]}, SPACING)
