"""Ensembles whose distribution is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sadm_ray.evaluate.calibration import COVERAGES, LEVELS, calibration, coverage, fair_crps

VOXELS = 100_000


def normal(members: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A truth from N(0, 1), and samples from N(0, spread²)."""
    generator = np.random.default_rng(members)
    return generator.standard_normal(VOXELS), spread * generator.standard_normal((members, VOXELS))


@pytest.mark.parametrize("members", [2, 3, 8])
def test_the_fair_crps_of_a_normal_distribution_does_not_depend_on_the_samples(members: int) -> None:
    assert fair_crps(*normal(members)) == pytest.approx(1 / math.sqrt(math.pi), abs=0.006)


def test_the_fair_crps_by_its_definition() -> None:
    truth, samples = np.array([0.3]), np.array([[0.1], [0.9], [0.4]])
    pairs = np.abs(samples[:, 0][:, None] - samples[:, 0])
    assert fair_crps(truth, samples) == pytest.approx(np.abs(samples - 0.3).mean() - pairs.sum() / (2 * 3 * 2))
    assert fair_crps(truth, samples[1:2]) == pytest.approx(0.6)  # one sample: its absolute error


@pytest.mark.parametrize("members", [2, 4, 16])
def test_intervals_of_an_ideal_ensemble_hold_what_they_promise(members: int) -> None:
    np.testing.assert_allclose(coverage(*normal(members)), LEVELS, atol=4 * math.sqrt(0.25 / VOXELS))


def test_too_small_and_too_large_spreads_are_detected() -> None:
    assert (coverage(*normal(4, spread=0.5)) < np.array(LEVELS) - 0.02).all()
    assert (coverage(*normal(4, spread=2.0)) > np.array(LEVELS) + 0.02).all()
    sure, unsure = (calibration(*normal(4, spread)) for spread in (0.5, 2.0))
    assert sure["spread"] < 0.6 * sure["error"]
    assert unsure["spread"] > 1.4 * unsure["error"]


def test_a_spread_that_follows_the_error_has_a_positive_correlation() -> None:
    truth, samples = normal(8)
    scale = np.random.default_rng(0).uniform(0.1, 3.0, VOXELS)
    assert calibration(scale * truth, scale * samples)["correlation"] > 0.3
    assert abs(calibration(truth, samples)["correlation"]) < 0.02
    assert math.isnan(calibration(truth, np.zeros((3, VOXELS)))["correlation"])  # all alike


def test_without_voxels_there_is_no_number() -> None:
    empty = calibration(np.zeros(0), np.zeros((3, 0)))
    assert set(empty) == {"spread", "error", "correlation", *COVERAGES}
    assert all(math.isnan(value) for value in [*empty.values(), fair_crps(np.zeros(0), np.zeros((3, 0)))])
