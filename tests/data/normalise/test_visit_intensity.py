from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sadm_ray.config import IntensitySettings
from sadm_ray.data.normalise.visit_intensity import Scaled, apply_knots, scale, undo_knots

GRID = np.meshgrid(*(np.linspace(-1, 1, 24),) * 3, indexing="ij")
RADIUS = np.sqrt(sum(axis**2 for axis in GRID))
INSIDE = RADIUS < 0.75


def head(
    gain: float = 1.0, offset: float = 0.0, air: float = 0.0, gamma: float = 1.0, lesion: bool = False
) -> np.ndarray:
    anatomy = np.where(RADIUS < 0.8, 0.3 + 0.5 * (RADIUS < 0.6) + 0.1 * np.cos(9 * GRID[0]), air)
    anatomy += 0.3 * lesion * ((GRID[0] - 0.2) ** 2 + GRID[1] ** 2 + GRID[2] ** 2 < 0.02)
    volume = gaussian_filter(anatomy, 0.7) ** gamma * 1000
    return (volume * gain + offset).astype(np.float32)


def scaled(*visits: np.ndarray, **settings: str) -> Scaled:
    return scale(np.stack(visits), IntensitySettings(**settings), [True] * len(visits))


EACH = {"over": "visit", "within": "foreground"}


@pytest.mark.parametrize("gain", [16.0, 1.8, 0.0625, 0.3])
@pytest.mark.parametrize("method", ["percentile", "zscore", "whitestripe", "histogram", "minmax"])
def test_a_gain_is_no_anatomy_where_each_visit_has_its_own_range(gain: float, method: str) -> None:
    result = scaled(head(), head(gain, lesion=method != "minmax"), method=method, **EACH)  # whose maximum it is
    assert abs(result.frames[1] - result.frames[0])[INSIDE].mean() < 0.03
    assert result.warnings == ("", "")
    lesion = (GRID[0] - 0.2) ** 2 + GRID[1] ** 2 + GRID[2] ** 2 < 0.01
    if method == "zscore":
        assert (result.frames[1] - result.frames[0])[lesion].mean() > 0.05, "what did change stays"


@pytest.mark.parametrize("gain", [16.0, 1.8, 0.0625, 0.3])
@pytest.mark.parametrize("over", ["first", "all"])
def test_a_gain_is_told_where_all_visits_share_a_range(gain: float, over: str) -> None:
    first, second = scaled(head(), head(gain), method="percentile", over=over, within="foreground").warnings
    assert "data.intensity.over=visit" in first + second
    assert scaled(head(), head(1.02), method="percentile", over=over, within="foreground").warnings == ("", "")


def test_histograms_are_matched_beyond_a_gain() -> None:
    first, second = head(), head(3.0, gamma=1.4)
    matched = scaled(first, second, method="histogram", **EACH).frames
    linear = scaled(first, second, method="percentile", **EACH).frames
    assert abs(matched[1] - matched[0])[INSIDE].mean() < 0.7 * abs(linear[1] - linear[0])[INSIDE].mean()


def test_the_brightest_tissue_has_one_place_whatever_is_around_it() -> None:
    """A wider ventricle or a lesion moves percentiles, not the peak of the white matter."""
    white, grey, fluid = 0.8, 0.5, 0.1
    rng = np.random.default_rng(0)
    visits = []
    for ventricle, gain in ((0.2, 1.0), (0.35, 3.0)):
        tissue = np.where(RADIUS < 0.65, white, grey)
        tissue = np.where(ventricle > RADIUS, fluid, tissue)
        noisy = np.where(RADIUS < 0.8, tissue, 0.0) + 0.02 * rng.standard_normal(RADIUS.shape)
        visits.append((np.abs(noisy) * 700 * gain).astype(np.float32))
    frames = scaled(*visits, method="whitestripe", **EACH).frames
    for frame, inner in zip(frames, (0.2, 0.35), strict=True):
        matter = (inner + 0.08 < RADIUS) & (RADIUS < 0.58)
        assert np.median(frame[matter]) == pytest.approx(0.8, abs=0.02)


def test_the_air_around_a_brain_does_not_count() -> None:
    brain = np.pad(head() * (RADIUS < 0.8), 24)  # 98 % of it are zeros
    whole = scaled(brain, brain * 1.01, method="percentile")
    assert "data.intensity.within=foreground" in whole.warnings[0]
    inside = scaled(brain, brain * 1.01, method="percentile", within="foreground")
    assert inside.warnings == ("", "")
    assert (inside.frames[0] >= 1).mean() < 0.001
    assert inside.frames[0][0, 0, 0] == 0, "air is 0"


@pytest.mark.parametrize("method", ["percentile", "zscore", "whitestripe", "histogram", "minmax"])
def test_each_visit_has_its_way_back(method: str) -> None:
    visits = head(), head(3.0, 40.0, gamma=1.2)
    result = scaled(*visits, method=method, **EACH)
    knots = result.knots[1]
    assert result.knots[0] is None, "the first one's is the subject's range"
    assert knots is not None
    inner = (result.frames[1] > 0) & (result.frames[1] < 1)
    np.testing.assert_allclose(undo_knots(result.frames[1], knots)[inner], visits[1][inner], rtol=1e-3, atol=0.5)


def test_knots_go_on_straight_beyond_their_ends() -> None:
    knots = [(10.0, 0.0), (20.0, 0.5), (60.0, 1.0)]
    np.testing.assert_allclose(apply_knots(np.array([0.0, 10, 15, 40, 100]), knots), [-0.5, 0, 0.25, 0.75, 1.5])
    np.testing.assert_allclose(undo_knots(np.array([-0.5, 0.25, 1.5]), knots), [0, 15, 100])


@pytest.mark.parametrize("method", ["percentile", "zscore", "whitestripe", "histogram", "minmax"])
def test_the_frames_of_one_file_share_its_gain(method: str) -> None:
    """A cine of contrast that washes in: its brightness is what happens, not a scanner's gain."""
    settings = IntensitySettings(method=method, **EACH)
    volumes = np.stack([head(), head(0.8), head(3.0), head(2.4)])
    result = scale(volumes, settings, [True, False, True, False])
    assert result.knots[:2] == (None, None)
    assert result.knots[2] == result.knots[3]
    for first, second in ((0, 1), (2, 3)):
        assert result.frames[second][INSIDE].mean() < 0.95 * result.frames[first][INSIDE].mean()


def test_a_visit_of_two_grey_values_keeps_its_own_range() -> None:
    """Of which no landmarks are apart: matching by histogram falls back on the visit's range, not on the first's."""
    flat = np.where(RADIUS < 0.8, 3000.0, 0.0).astype(np.float32)
    second = scaled(head(), flat, method="histogram", **EACH).frames[1]
    assert 0.3 < second[INSIDE].mean() <= 1
    assert second[0, 0, 0] == 0
