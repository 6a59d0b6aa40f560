"""A classifier that tells samples from scans where they differ, and does not where they do not."""

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.sample_classifier import _area, told_apart


def volumes(seed: int, blur: float = 0.0) -> list[np.ndarray]:
    """Something smooth, sharp to some degree."""
    noise = np.random.default_rng(seed).random((4, 24, 24))
    smooth = gaussian_filter(noise, (0, 0.8 + blur, 0.8 + blur))
    return [((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)]


def test_blurred_samples_are_told_apart_and_others_are_not() -> None:
    scans = {f"s{number}": volumes(number) for number in range(8)}
    alike = {name: volumes(100 + number) for number, name in enumerate(scans)}
    blurred = {name: volumes(100 + number, blur=0.5) for number, name in enumerate(scans)}
    assert told_apart(scans, blurred) > 0.9
    assert 0.25 < told_apart(scans, alike) < 0.75


def test_the_area_is_the_chance_to_be_right() -> None:
    assert _area(np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, False, True, True])) == 1.0
    assert _area(np.array([0.1, 0.4, 0.3, 0.2]), np.array([False, False, True, True])) == 0.5
    assert _area(np.zeros(4), np.array([False, False, True, True])) == 0.5


def test_few_subjects_have_no_area() -> None:
    assert math.isnan(told_apart(dict.fromkeys("abc", volumes(0)), dict.fromkeys("abc", volumes(1))))
