"""Metrics against closed forms and scikit-image."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from sadm_ray.data.phantom.heart import draw_anatomy, draw_motion, render_heart
from sadm_ray.errors import ConfigError
from sadm_ray.evaluate import metrics
from sadm_ray.evaluate.score_tables import CALIBRATION_COLUMNS, NAIVE_BASELINES, TEMPORAL_COLUMNS

RNG = np.random.default_rng(3)
TRUTH = RNG.uniform(0.2, 0.8, (8, 16, 16)).astype(np.float32)
NEAR = np.clip(TRUTH + RNG.normal(0, 0.05, TRUTH.shape), 0, 1).astype(np.float32)


@pytest.mark.parametrize(("offset", "decibels"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0)])
def test_psnr_of_a_known_error(offset: float, decibels: float) -> None:
    black = np.zeros((4, 5, 6))
    assert metrics.psnr(black, black + offset) == pytest.approx(decibels)


def test_psnr_of_noise_is_its_variance() -> None:
    noise = RNG.normal(0, 0.02, (20, 40, 40))
    assert metrics.psnr(np.full(noise.shape, 0.5), 0.5 + noise) == pytest.approx(-20 * np.log10(0.02), abs=0.1)


def test_identical_volumes_reach_the_cap_and_nothing_passes_it() -> None:
    assert metrics.psnr(TRUTH, TRUTH) == metrics.PSNR_CAP
    assert metrics.psnr(TRUTH.astype(np.float64), TRUTH + 1e-9) == metrics.PSNR_CAP


def test_psnr_in_a_region_sees_that_region_only() -> None:
    region = np.zeros(TRUTH.shape, dtype=bool)
    region[2:4] = True
    inside, outside = TRUTH.copy(), TRUTH.copy()
    inside[region] += 0.1
    outside[~region] += 0.1
    assert metrics.psnr(TRUTH, inside, region) == pytest.approx(20, abs=1e-4)
    assert metrics.psnr(TRUTH, outside, region) == metrics.PSNR_CAP
    assert np.isnan(metrics.psnr(TRUTH, inside, np.zeros_like(region)))


def test_a_broken_volume_is_never_perfect() -> None:
    broken = TRUTH.copy()
    broken[0, 0, 0] = np.nan
    assert np.isnan(metrics.psnr(TRUTH, broken))
    with pytest.raises(ValueError, match="not finite"):
        metrics.score(TRUTH, broken, {})


@pytest.mark.parametrize(
    ("shape", "window"), [((8, 16, 16), 7), ((12, 16, 16), 11), ((13, 11, 40), 11), ((2, 9, 9), 1)]
)
def test_ssim_is_scikit_images(shape: tuple[int, int, int], window: int) -> None:
    skimage = pytest.importorskip("skimage.metrics")
    truth, near = RNG.uniform(size=shape), RNG.uniform(size=shape)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = skimage.structural_similarity(truth, near, win_size=window, **options)
    assert metrics.ssim(truth, near) == pytest.approx(expected, abs=1e-12)
    assert metrics.ssim(truth, truth) == pytest.approx(1)


def test_nrmse_is_relative_to_the_truth() -> None:
    assert metrics.nrmse(TRUTH, 1.1 * TRUTH) == pytest.approx(0.1, rel=1e-5)
    assert metrics.nrmse(TRUTH, np.zeros_like(TRUTH)) == pytest.approx(1)
    assert np.isnan(metrics.nrmse(np.zeros_like(TRUTH), TRUTH))


def test_score_has_every_metric_and_a_definition_for_each() -> None:
    scores = metrics.score(TRUTH, NEAR, {"foreground": TRUTH > 0.3, "changed": TRUTH > 0.5})
    assert scores["psnr"] == pytest.approx(26, abs=0.5)
    assert [*scores, "crps_changed"] == list(metrics.SCORES)
    names = {*metrics.SCORES, *CALIBRATION_COLUMNS[4:-1], *TEMPORAL_COLUMNS[4:-1], *NAIVE_BASELINES}
    assert {re.sub(r"_\d+$", "", name) for name in names} <= set(metrics.DEFINITIONS)


def test_all_numbers_are_scikit_images() -> None:
    skimage = pytest.importorskip("skimage.metrics")
    region = TRUTH > 0.5
    scores = metrics.score(TRUTH, NEAR, {"changed": region})
    truth, near = TRUTH.astype(np.float64), NEAR.astype(np.float64)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "win_size": 7}
    mean, everywhere = skimage.structural_similarity(truth, near, full=True, **options)
    expected = {"ssim": mean, "ssim_changed": everywhere[region].mean()}
    for suffix, (there, made) in {"": (truth, near), "_changed": (truth[region], near[region])}.items():
        expected["psnr" + suffix] = skimage.peak_signal_noise_ratio(there, made, data_range=1.0)
        expected["nrmse" + suffix] = skimage.normalized_root_mse(there, made, normalization="euclidean")
        expected["mae" + suffix] = np.abs(there - made).mean()
    assert scores == pytest.approx(expected, abs=1e-6)


def test_a_region_scores_its_own_voxels_and_one_without_any_has_no_numbers() -> None:
    region = np.zeros(TRUTH.shape, dtype=bool)
    region[2:4] = True
    off = TRUTH + np.where(region, 0.1, 0.0)
    scores = metrics.score(TRUTH, off, {"changed": region, "foreground": ~region, "none": np.zeros_like(region)})
    assert scores["mae_changed"] == pytest.approx(0.1, abs=1e-6)
    assert scores["nrmse_changed"] == pytest.approx(0.1 / np.sqrt(np.mean(TRUTH[region] ** 2)), rel=1e-5)
    assert scores["mae_foreground"] == scores["nrmse_foreground"] == 0
    assert scores["ssim_changed"] < scores["ssim"] < scores["ssim_foreground"]
    assert all(np.isnan(scores[f"{name}_none"]) for name in metrics.METRICS)


def test_shapes_that_differ_are_refused_even_where_they_would_broadcast() -> None:
    for metric in (metrics.psnr, metrics.ssim, metrics.nrmse, metrics.mae):
        with pytest.raises(ValueError, match="true volume"):
            metric(TRUTH, TRUTH[:1])


def test_the_changed_region_ignores_absent_frames() -> None:
    frames = np.full((3, 2, 2, 2), 0.5, dtype=np.float16)
    frames[1, 0, 0, 0] = 0.7
    frames[1, 0, 0, 1] = 0.55
    frames[2] = 0  # absent, so whatever stands here cannot matter
    region = metrics.changed_region(frames, np.array([True, True, False]))
    assert region.sum() == 1
    assert region[0, 0, 0]


def test_the_changed_region_separates_a_model_that_copies_from_one_that_predicts() -> None:
    """Over the whole volume both are equally wrong; where something changes, only one of them is."""
    rng = np.random.default_rng(5)
    frames = render_heart(draw_anatomy(rng), draw_motion(rng), (8, 32, 32))
    truth, copied = frames[4], frames[0]
    error = np.sqrt(np.mean((copied - truth) ** 2))
    predicted = truth + rng.normal(0, error, truth.shape).astype(np.float32)
    regions = metrics.regions_of(frames, np.ones(len(frames), dtype=bool))
    copies, predicts = (metrics.score(truth, volume, regions) for volume in (copied, predicted))
    assert copies["psnr"] == pytest.approx(predicts["psnr"], abs=0.1)
    assert copies["mae"] < predicts["mae"]
    assert copies["ssim"] > predicts["ssim"]
    assert copies["psnr_changed"] < predicts["psnr_changed"] - 4
    assert copies["mae_changed"] > 1.5 * predicts["mae_changed"]
    assert copies["ssim_changed"] < predicts["ssim_changed"]


def test_the_foreground_is_what_is_bright_on_average() -> None:
    frames = np.zeros((3, 2, 2, 2), dtype=np.float16)
    frames[:2, 0, 0, 0] = 0.15, 0.1
    frames[:2, 0, 0, 1] = 0.05, 0.1
    frames[2] = 1  # absent
    region = metrics.foreground(frames, np.array([True, True, False]))
    assert region.sum() == 1
    assert region[0, 0, 0]


def test_without_scikit_image_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ConfigError, match=r"install sadm-ray\[eval\]"):
        metrics.ssim(TRUTH, NEAR)
    assert metrics.psnr(TRUTH, NEAR) > 20  # training and the sweep do without it
