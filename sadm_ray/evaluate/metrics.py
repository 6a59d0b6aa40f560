"""How near a generated volume is to the true one: PSNR, SSIM, NRMSE, and PSNR where the anatomy changes.

All take float volumes with intensities in [0, 1]. Only SSIM and NRMSE need scikit-image (the extra `eval`), so that
training and the sweep can watch PSNR without it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from sadm_ray.errors import ConfigError

Volume = Float[np.ndarray, "d h w"]

PSNR_CAP = 100.0
"""dB given to identical volumes, and the most that any pair gets: an infinite PSNR would swallow every average.

Far above what can be reached: the float16 that predictions are stored in is itself only good for about 75 dB.
"""

CHANGE_THRESHOLD = 0.1
"""How far a voxel's intensity ranges over a subject's true frames before it counts as changing."""

SSIM_SIGMA, SSIM_TAPS = 1.5, 11

DEFINITIONS = {
    "psnr": f"peak signal-to-noise ratio in dB, data range 1, over the whole volume; at most {PSNR_CAP:g} dB",
    "psnr_changed": "PSNR over the subject's changed region alone: the voxels whose true intensity ranges over more "
    f"than {CHANGE_THRESHOLD:g} across all present frames; the same voxels for every method",
    "ssim": f"structural similarity in 3D, Gaussian weights (sigma {SSIM_SIGMA:g} voxels, {SSIM_TAPS} taps), data "
    "range 1, population covariance; averaged without the border that the window overhangs (at most 5 voxels, "
    "less where the volume is thin); scikit-image",
    "nrmse": "root mean square error over the root mean square of the true volume (Euclidean norm); scikit-image",
    "sample": "the first volume that was drawn",
    "mean of S": "the voxelwise mean of all S volumes drawn: it blurs what is uncertain, and PSNR rewards that",
    "copy-last": "the last observed frame before the target (where there is none: the observed frame nearest in time)",
    "interpolation": "linear in time between the observed frames on both sides; only for targets that lie between two",
    "averages": "frames are averaged within a subject first, then subjects",
    "delta_psnr": "mean over subjects of PSNR minus the PSNR of copy-last on the same subject, task and frame",
}
"""What every number in the results means; it travels with them."""


def psnr(truth: NDArray, generated: NDArray, region: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB for data range 1, at most `PSNR_CAP`.

    Args:
        truth, generated: of one shape, in [0, 1].
        region: bool, of the same shape: only these voxels count. A region without voxels gives NaN.

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(truth, generated)
    squared = np.square(truth.astype(np.float64) - generated)
    if region is not None:
        squared = squared[region]
    if not squared.size:
        return float("nan")
    # Written so that NaN stays NaN: a broken volume must not be mistaken for a perfect one.
    error = np.maximum(squared.mean(), 10 ** (-PSNR_CAP / 10))
    return float(-10 * np.log10(error))


def ssim(truth: Volume, generated: Volume) -> float:
    """Structural similarity (Wang et al., 2004) in 3D, at most 1: Gaussian weights, sigma 1.5, 11 taps.

    Raises:
        ConfigError: scikit-image is not installed.
        ValueError: the shapes differ.
    """
    structural_similarity, _ = _scikit_image()
    _same_shape(truth, generated)
    # With Gaussian weights `win_size` no longer sets the filter, only the border left out of the mean; the default of
    # 11 would refuse volumes of fewer slices.
    smallest = min(SSIM_TAPS, *truth.shape)
    window = smallest - (smallest + 1) % 2
    similarity = structural_similarity(
        truth.astype(np.float64),
        generated.astype(np.float64),
        gaussian_weights=True,
        sigma=SSIM_SIGMA,
        use_sample_covariance=False,
        data_range=1.0,
        win_size=window,
    )
    return float(similarity)


def nrmse(truth: NDArray, generated: NDArray) -> float:
    """Root mean square error over the root mean square of `truth`; NaN where `truth` is black.

    Raises:
        ConfigError: scikit-image is not installed.
        ValueError: the shapes differ.
    """
    _, normalized_root_mse = _scikit_image()
    _same_shape(truth, generated)
    if not truth.any():
        return float("nan")
    return float(normalized_root_mse(truth.astype(np.float64), generated.astype(np.float64), normalization="euclidean"))


def changed_region(frames: Float[np.ndarray, "t d h w"], present: Bool[np.ndarray, " t"]) -> Bool[np.ndarray, "d h w"]:
    """The voxels whose intensity ranges over more than `CHANGE_THRESHOLD` across the present true frames."""
    true_frames = frames[present].astype(np.float32)
    return np.ptp(true_frames, axis=0) > CHANGE_THRESHOLD


def score(truth: Volume, generated: Volume, region: Bool[np.ndarray, "d h w"]) -> dict[str, float]:
    """All metrics of one volume: `psnr`, `psnr_changed`, `ssim`, `nrmse` (see `DEFINITIONS`).

    Raises:
        ConfigError: scikit-image is not installed.
        ValueError: the shapes differ, or a value is not finite.
    """
    _same_shape(truth, generated)
    if not np.isfinite(generated).all():
        raise ValueError("the volume has values that are not finite")
    return {
        "psnr": psnr(truth, generated),
        "psnr_changed": psnr(truth, generated, region),
        "ssim": ssim(truth, generated),
        "nrmse": nrmse(truth, generated),
    }


def require_scikit_image() -> None:
    """Raise ConfigError at once, rather than once a row, when the extra `eval` is not installed."""
    _scikit_image()


def _scikit_image():  # type: ignore[no-untyped-def]
    try:
        from skimage.metrics import normalized_root_mse, structural_similarity
    except ImportError:
        raise ConfigError("evaluation needs scikit-image: install sadm-ray[eval]") from None
    return structural_similarity, normalized_root_mse


def _same_shape(truth: NDArray, generated: NDArray) -> None:
    if truth.shape != generated.shape:
        raise ValueError(f"the true volume is {truth.shape}, the generated one {generated.shape}")
