import math

import numpy as np
import pytest

from sadm_ray.evaluate.sample_likeness import COHERENCE, ERROR_COHERENCE, POWER, autocorrelation, band_power, likeness

RANDOM = np.random.default_rng(0)


def smooth(volume: np.ndarray) -> np.ndarray:
    """Means of 4 × 4 voxels within slices."""
    for axis in (1, 2):
        volume = sum(np.roll(volume, shift, axis) for shift in range(4)) / 4
    return volume


def test_white_noise_is_not_alike_and_a_mean_of_four_is_so_as_theory_says() -> None:
    white = RANDOM.normal(size=(20, 64, 64))
    assert autocorrelation(white, 1) == pytest.approx(0.0, abs=0.02)
    for lag, expected in ((1, 0.75), (2, 0.5), (4, 0.0)):
        assert autocorrelation(smooth(white), lag) == pytest.approx(expected, abs=0.03)
    assert autocorrelation(white + np.arange(20.0)[:, None, None], 1) == pytest.approx(0.0, abs=0.02), "of each slice"
    assert math.isnan(autocorrelation(np.ones((2, 8, 8)), 1))
    assert math.isnan(autocorrelation(RANDOM.normal(size=(2, 8, 4)), 4))


def test_a_wave_has_its_power_in_its_band() -> None:
    for cycles, band in ((0.1, 0), (0.2, 1), (0.3, 2), (0.45, 3)):
        wave = np.broadcast_to(np.cos(2 * np.pi * cycles * np.arange(40.0)), (3, 40, 40))
        power = band_power(5.0 + wave)
        assert power.argmax() == band
        assert power[band] / power.sum() > 0.99


def test_samples_that_differ_as_the_truth_does_have_its_scores() -> None:
    estimate = smooth(RANDOM.random((20, 64, 64)))
    truth, *samples = (estimate + 0.2 * smooth(RANDOM.normal(size=estimate.shape)) for _ in range(5))
    found = likeness(truth, estimate, np.stack(samples))
    for name, error in zip(COHERENCE, ERROR_COHERENCE, strict=True):
        assert found[name] == pytest.approx(found[error], abs=0.05)
    assert [found[name] for name in POWER] == pytest.approx([0.0] * 4, abs=0.5)
    speckled = np.stack([estimate + 0.2 * RANDOM.normal(size=estimate.shape) for _ in samples])
    found = likeness(truth, estimate, speckled)
    assert found["coherence_1"] < 0.1 < 0.6 < found["error_coherence_1"]
    assert found["power_4"] > 3.0


def test_samples_that_do_not_differ_have_no_coherence() -> None:
    estimate = RANDOM.random((2, 8, 8))
    found = likeness(RANDOM.random((2, 8, 8)), estimate, np.stack([estimate, estimate]))
    assert all(math.isnan(found[name]) for name in COHERENCE)
    assert not any(math.isnan(found[name]) for name in (*ERROR_COHERENCE, *POWER))
