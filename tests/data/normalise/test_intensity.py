from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadm_ray.data.normalise.intensity import Method, Stored, decode, denormalise, encode, intensity_range, normalise

METHODS: list[Method] = ["minmax", "percentile", "zscore"]


def scan(seed: int = 0, lo: float = 0.0, span: float = 1000.0) -> np.ndarray:
    return (lo + span * np.random.default_rng(seed).random((3, 4, 8, 8))).astype(np.float32)


@given(lo=st.floats(-1000, 1000), span=st.floats(0.1, 5000), seed=st.integers(0, 99), method=st.sampled_from(METHODS))
def test_normalise_is_undone(lo: float, span: float, seed: int, method: Method) -> None:
    frames = scan(seed, lo, span)
    intensity = intensity_range(frames[0], method)
    scaled = normalise(frames, intensity)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(denormalise(scaled, intensity), frames, atol=1e-5 * (abs(lo) + span))


def test_minmax_fills_the_range_exactly() -> None:
    scaled = normalise(scan(), intensity_range(scan(), "minmax"))
    assert (scaled.min(), scaled.max()) == (0, 1)


def test_percentile_does_not_follow_a_hot_voxel() -> None:
    hot = scan()[0]
    hot[0, 0, 0] = 1e6
    assert intensity_range(hot, "percentile")[1] < 1100
    assert intensity_range(hot, "minmax")[1] == 1e6


def test_zscore_is_the_z_score_on_another_scale() -> None:
    frames = scan(lo=-500)
    scaled = normalise(frames, intensity_range(frames, "zscore"))
    z = (frames - frames.mean(dtype=np.float64)) / frames.std(dtype=np.float64)
    np.testing.assert_allclose(scaled, (z + 3) / 6, atol=1e-6)


def test_one_range_keeps_the_changes_between_frames() -> None:
    frames = np.stack([np.linspace(0, top, 8, dtype=np.float32).reshape(2, 2, 2) for top in (100, 50, 150)])
    scaled = normalise(frames, intensity_range(frames[0], "minmax"))
    assert scaled[1].max() == pytest.approx(0.5)
    assert scaled[2].max() == pytest.approx(1.5)
    assert normalise(frames, (0.0, 100.0), clip=True).max() == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [7, 0.1])
def test_a_constant_scan_has_no_range(method: Method, value: float) -> None:
    with pytest.raises(ValueError, match="constant"):
        intensity_range(np.full((2, 3, 3, 3), value, np.float32), method)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_range_is_finite(method: Method, value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        intensity_range(np.linspace(0, value, 27, dtype=np.float32).reshape(3, 3, 3), method)
    with pytest.raises(ValueError, match="not finite"):
        normalise(scan(), (0.0, value))


@given(lo=st.floats(-1e4, 1e4), span=st.floats(1e-3, 1e4), seed=st.integers(0, 99))
def test_uint8_is_off_by_half_a_step_at_most(lo: float, span: float, seed: int) -> None:
    frames = scan(seed, lo, span)
    data, stored = encode(frames, "uint8")
    back = decode(data, "uint8", stored, frames.shape)
    assert len(data) == frames.size
    assert (back.min(), back.max()) == stored == (frames.min(), frames.max())
    rounding = np.spacing(np.abs(frames).max())
    assert np.abs(back.astype(np.float64) - frames).max() <= (stored[1] - stored[0]) / 255 / 2 + rounding


def test_uint8_keeps_a_constant() -> None:
    frames = np.full((2, 2, 2, 2), 0.3, np.float32)
    np.testing.assert_array_equal(decode(*pack(frames, "uint8")), frames)


def test_float16_is_a_plain_cast() -> None:
    frames = scan(span=1)
    data, stored = encode(frames, "float16")
    assert data == frames.astype("<f2").tobytes()
    assert stored == (0, 1)
    np.testing.assert_array_equal(decode(data, "float16", stored, frames.shape), frames.astype(np.float16))


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_bytes_do_not_depend_on_the_layout_in_memory(dtype: Stored) -> None:
    frames = scan().transpose(0, 3, 1, 2)
    assert encode(frames, dtype) == encode(np.ascontiguousarray(frames), dtype)
    back = decode(*pack(frames, dtype))
    assert back.flags.writeable
    assert back.dtype == np.float32


def test_what_cannot_be_stored_is_refused() -> None:
    with pytest.raises(ValueError, match="65504"):
        encode(scan(span=1e6), "float16")
    for dtype in ("float16", "uint8"):
        with pytest.raises(ValueError, match="not finite"):
            encode(np.full((1, 2, 2, 2), np.nan, np.float32), dtype)
    data, stored = encode(scan(), "uint8")
    with pytest.raises(ValueError, match="reshape"):
        decode(data[:-2], "uint8", stored, scan().shape)


def pack(frames: np.ndarray, dtype: Stored) -> tuple[bytes, Stored, tuple[float, float], tuple[int, ...]]:
    data, stored = encode(frames, dtype)
    return data, dtype, stored, frames.shape
