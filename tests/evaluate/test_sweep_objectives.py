"""The objectives of the sweep."""

import math

import numpy as np
import pytest

from sadm_ray.evaluate import sweep_objectives
from sadm_ray.evaluate.calibration import ensemble_variance_and_error
from sadm_ray.evaluate.sampling_quality import ScoredFrame
from sadm_ray.evaluate.sweep_objectives import score_frame, score_subject, summarise

SHAPE = (6, 24, 24)
REGION = np.ones(SHAPE, dtype=bool)


def ensemble(spread: float, members: int = 3, task: str = "t", seed: int = 0) -> ScoredFrame:
    """A truth that is a draw from N(mean, 0.05²), and samples from N(mean, (spread · 0.05)²)."""
    generator = np.random.default_rng(seed)
    mean = generator.uniform(0.3, 0.7, SHAPE)
    truth = mean + 0.05 * generator.standard_normal(SHAPE)
    samples = mean + spread * 0.05 * generator.standard_normal((members, *SHAPE))
    return ScoredFrame("s", task, 1, truth, mean, 0, samples)


@pytest.mark.parametrize("members", [2, 3, 8])
def test_an_ideal_ensemble_is_calibrated(members: int) -> None:
    scores = summarise([score_subject([(ensemble(1.0, members), REGION)])])
    assert scores["spread_ratio"] == pytest.approx(1.0, abs=0.03)
    assert scores["calibration"] < 0.04


def test_too_small_and_too_large_spreads_both_score_badly() -> None:
    sure = summarise([score_subject([(ensemble(0.25), REGION)])])
    unsure = summarise([score_subject([(ensemble(4.0), REGION)])])
    assert sure["spread_ratio"] < 0.5 < 1.5 < unsure["spread_ratio"]
    assert min(sure["calibration"], unsure["calibration"]) > 0.5


def test_one_task_too_sure_does_not_make_up_for_another_too_unsure() -> None:
    subject = score_subject([(ensemble(0.25, task="a"), REGION), (ensemble(4.0, task="b"), REGION)])
    assert summarise([subject])["calibration"] > 0.5


def test_samples_that_are_all_equal_have_a_finite_score() -> None:
    frame = ensemble(0.0)
    scores = summarise([score_subject([(frame, REGION)])])
    assert scores["calibration"] == 20.0
    assert ensemble_variance_and_error(frame.truth.ravel(), frame.samples.reshape(3, -1))[0] == pytest.approx(0.0)


def test_only_the_region_counts_where_it_should() -> None:
    frame = ensemble(1.0)
    region = np.zeros(SHAPE, dtype=bool)
    region[0] = True
    broken = frame.samples.copy()
    broken[:, 1:] = 0.0
    one, other = (
        score_frame(ScoredFrame("s", "t", 1, frame.truth, frame.copied, 0, each), region)
        for each in (frame.samples, broken)
    )
    same = {"psnr_changed", "copy_last_changed", "nrmse_changed", "crps", "variance", "error", "copy_last"}
    assert {key for key in one if one[key] == other[key]} == same
    truth, generated = frame.truth[region], frame.samples[0][region]
    expected = math.sqrt(np.mean((truth - generated) ** 2)) / math.sqrt(np.mean(truth**2))
    assert one["nrmse_changed"] == pytest.approx(expected)


def test_a_subject_in_which_nothing_changes_has_no_part_in_those_means() -> None:
    nothing = np.zeros(SHAPE, dtype=bool)
    still, moving = score_subject([(ensemble(1.0), nothing)]), score_subject([(ensemble(1.0, seed=1), REGION)])
    assert math.isnan(summarise([still])["gain_changed"])
    assert math.isnan(summarise([still])["calibration"])
    both = summarise([still, moving])
    for key in ("gain_changed", "nrmse_changed", "calibration"):
        assert both[key] == summarise([moving])[key]
    assert both["gain"] != summarise([moving])["gain"]


def test_means_are_over_frames_then_subjects_then_tasks() -> None:
    def frame(task: str, psnr: float) -> dict[str, dict[str, float]]:
        return {task: {"psnr": psnr, "copy_last": 0.0, "psnr_changed": psnr, "copy_last_changed": 0.0}}

    subjects = [frame("a", 1.0) | frame("b", 10.0), frame("a", 3.0)]
    assert summarise(subjects)["gain"] == 6.0  # (mean of 1 and 3, and 10) / 2; not the mean of three
    assert summarise(subjects)["gain.a"] == 2.0
    assert summarise([]) == {}


def test_without_scikit_image_all_but_ssim_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score_frame(ensemble(1.0), REGION)
    monkeypatch.setattr(sweep_objectives, "structure_can_be_scored", lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "skimage.metrics", None)
    assert set(whole) - set(score_frame(ensemble(1.0), REGION)) == {"ssim"}
