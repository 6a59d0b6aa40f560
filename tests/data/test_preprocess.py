from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadm_ray.data.preprocess import denormalise, from_grid, normalise, to_grid


def smooth(shape: tuple[int, int, int]) -> np.ndarray:
    """A wave that is half as long as the field of view, sampled at the voxel centres."""
    z, y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij")
    return (np.sin(2 * np.pi * y) * np.cos(2 * np.pi * x) + 0.5 * z).astype(np.float32)


@pytest.mark.parametrize(
    ("source", "grid"),
    [((8, 48, 48), (8, 32, 32)), ((7, 95, 100), (8, 64, 64)), ((5, 24, 30), (8, 48, 40)), ((8, 32, 32), (8, 32, 32))],
)
def test_both_grids_see_the_same_field_of_view(source: tuple[int, int, int], grid: tuple[int, int, int]) -> None:
    there = to_grid(smooth(source)[None], grid)[0]
    assert there.shape == grid
    assert there.dtype == np.float32
    np.testing.assert_allclose(there[:, 2:-2, 2:-2], smooth(grid)[:, 2:-2, 2:-2], atol=0.08)
    back = from_grid(there, source)
    assert back.shape == source
    assert np.sqrt(np.mean((back - smooth(source)) ** 2)) < 0.04


def test_what_is_centred_stays_centred() -> None:
    volume = np.zeros((1, 6, 40, 40), np.float32)
    volume[0, 2:4, 10:30, 10:30] = 1
    grid = to_grid(volume, (6, 16, 16))[0]
    np.testing.assert_allclose(grid, grid[::-1, ::-1, ::-1], atol=1e-6)


def test_detail_finer_than_the_grid_does_not_alias() -> None:
    stripes = np.tile(np.arange(64) % 2, (1, 4, 64, 1)).astype(np.float32)
    assert np.ptp(to_grid(stripes, (4, 20, 20))[..., 2:-2]) < 0.1


def test_frames_do_not_mix() -> None:
    frames = np.random.default_rng(0).random((3, 4, 12, 12), dtype=np.float32)
    together = to_grid(frames, (4, 8, 8))
    np.testing.assert_array_equal(together[1], to_grid(frames[1:2], (4, 8, 8))[0])


@given(lo=st.floats(-1000, 1000), span=st.floats(0.1, 5000), seed=st.integers(0, 99))
def test_normalise_is_undone(lo: float, span: float, seed: int) -> None:
    frames = (lo + span * np.random.default_rng(seed).random((2, 2, 3, 3))).astype(np.float32)
    scaled, intensity = normalise(frames)
    assert scaled.min() == 0
    assert scaled.max() == 1
    np.testing.assert_allclose(denormalise(scaled, intensity), frames, atol=1e-5 * (abs(lo) + span))


def test_one_range_for_the_whole_sequence() -> None:
    frames = np.stack([np.linspace(0, top, 8, dtype=np.float32).reshape(2, 2, 2) for top in (100, 50)])
    scaled, _ = normalise(frames)
    assert scaled[1].max() == pytest.approx(0.5)


def test_a_constant_sequence_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match="constant"):
        normalise(np.full((2, 2, 2, 2), 7, np.float32))
