"""How near a generated volume is to the true one: PSNR, SSIM, NRMSE and MAE, everywhere and in two regions.

All take float volumes with intensities in [0, 1]. Only SSIM needs scikit-image (the extra `eval`), so that training and
the sweep can compute the others without it. `DEFINITIONS` says what every number means, including those of the other
modules here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from sadm_ray.errors import ConfigError

Volume = Float[np.ndarray, "d h w"]
Region = Bool[np.ndarray, "d h w"]

PSNR_CAP = 100.0
"""dB given to identical volumes, and the most that any pair gets: an infinite PSNR would make every average infinite.

Far above what can be reached: the float16 that predictions are stored in is itself only good for about 75 dB.
"""

CHANGE_THRESHOLD = 0.1
"""A voxel counts as changed when its intensity ranges over more than this across a subject's true frames."""

FOREGROUND_THRESHOLD = 0.1
"""A voxel counts as foreground when it is brighter than this, more than air, in the mean of the true frames."""

SSIM_SIGMA, SSIM_TAPS = 1.5, 11

METRICS = ("psnr", "ssim", "nrmse", "mae")
REGIONS = ("foreground", "changed")
SCORES = (*METRICS, *(f"{metric}_{region}" for region in REGIONS for metric in METRICS), "crps_changed")
"""The scores of every volume."""

_WHOLE = {
    "psnr": f"peak signal-to-noise ratio in dB, data range 1, over the whole volume; at most {PSNR_CAP:g} dB",
    "ssim": f"structural similarity in 3D, Gaussian weights (sigma {SSIM_SIGMA:g} voxels, {SSIM_TAPS} taps), data "
    "range 1, population covariance; averaged without the border that the window overhangs (at most 5 voxels, "
    "less where the volume is thin); as scikit-image has it",
    "nrmse": "root mean square error over the root mean square of the true volume (Euclidean norm); as scikit-image "
    "has it",
    "mae": "mean absolute error, data range 1",
}
_WITHIN = {
    "psnr": "PSNR over the {} alone",
    "ssim": "the mean of the map of structural similarity over the {}; the windows reach beyond it",
    "nrmse": "root of the summed squared error over that of the summed squared truth, both over the {}",
    "mae": "mean absolute error over the {}",
}
_REGIONS = {
    "foreground": f"the voxels whose mean over the subject's present true frames is above {FOREGROUND_THRESHOLD:g}; "
    "the same for every method",
    "changed": "the subject's changed region: the voxels whose true intensity ranges over more than "
    f"{CHANGE_THRESHOLD:g} across all present frames; the same for every method",
}

DEFINITIONS = {
    **_WHOLE,
    "foreground": _REGIONS["foreground"],
    "changed": _REGIONS["changed"],
    **{
        f"{metric}_{region}": f"{text.format({'foreground': 'foreground', 'changed': 'changed region'}[region])}; none "
        "where that has no voxels"
        for region in REGIONS
        for metric, text in _WITHIN.items()
    },
    "crps_changed": "continuous ranked probability score, the mean over the changed region (less is better, data range "
    "1); of `mean of S` it is the score of all S samples as an ensemble, in its fair form, which does not depend on S "
    "(Ferro, 2014); of every other method, which gives one volume, it is the mean absolute error",
    "estimate": "the best point prediction of the model; of a kind that has none the mean of eight samples",
    "sample": "the first volume that was drawn",
    "mean of S": "the voxelwise mean of all S volumes drawn: it blurs what is uncertain, and PSNR rewards that",
    "copy-last": "the last observed frame before the target (where there is none: the observed frame nearest in time)",
    "copy-first": "the first observed frame; left out where that is the frame of copy-last",
    "extrapolation": "linear in time through the last two observed frames before the target, limited to [0, 1] or, "
    "where that goes beyond, the range of what was observed; only where there are two",
    "mean change": "the frame of copy-last plus the mean change of the training subjects, limited like extrapolation: "
    "from that slot to the target's where a study has fixed slots; else their change per unit of time (all change from "
    "first to last visits over all time between them) times the time that has passed; only where there are training "
    "subjects",
    "interpolation": "linear in time between the observed frames on both sides; only for targets that lie between two",
    "averages": "frames are averaged within a subject first, then subjects; of spread and error their squares",
    "delta_psnr": "mean over subjects of PSNR minus the PSNR of copy-last on the same subject, task and frame",
    "spread": "root of the mean over the changed region of (1 + 1/S) times the variance of the S samples: what the "
    "error should be (Fortin et al., 2014)",
    "error": "root mean square error of the mean of all samples over the changed region; less spread than error: the "
    "samples are overconfident",
    "correlation": "Spearman's rank correlation over the voxels of the changed region between the samples' standard "
    "deviation and the absolute error of their mean; above 0: the spread is larger where the error is",
    "coverage": "coverage_P: of the voxels of the changed region the part whose truth lies inside the central "
    "prediction interval of P % (mean ± t·s·√(1 + 1/S), t of Student's distribution with S − 1 degrees of freedom, s "
    "the samples' standard deviation); P % is ideal for Gaussian samples, less: overconfident",
    "bounds_level": "the level of the calibrated bounds, 0.9 unless asked otherwise; none of a model that is not "
    "calibrated",
    "bounds_hold": "of the voxels of the changed region the part between the calibrated bounds at bounds_level; none "
    "of a model that is not calibrated",
    "coherence": "coherence_L: the autocorrelation, along rows and columns of slices, of sample minus estimate at L "
    "voxels, the mean over the samples; it should be error_coherence_L",
    "error_coherence": "error_coherence_L: the same of truth minus estimate",
    "power": "power_B: the power of the first sample over the truth's in band B of four up to half a cycle a voxel, "
    "within slices, in dB; 0 is ideal, less is blurred, more is speckled",
    "difference_error": "root mean square error of the change from each frame to the next over the changed region, per "
    "step, however long it is; over two or more targets that follow each other with no other scan between them, from "
    "the observed frame just before them; methods without a volume for each of these frames are left out",
    "flicker": "mean absolute second difference in time of the generated frames minus that of the true ones, on the "
    "same frames and voxels; a second difference is twice the distance of a frame from the straight line in time "
    "between its neighbours; above 0: flickers more than the truth, below: smoother than it",
    "dice": "of a structure in a label map and in the true one of the target: twice the common voxels over the voxels "
    "of both, on the prepared grid; 0 where one of them has no such voxels",
    "hd95_mm": "the 95 % Hausdorff distance in mm of the borders of a structure: the larger of both directions' 95th "
    "percentiles of the distances to the nearest border voxel of the other, as MONAI has it; none where the structure "
    "is empty in one of them, or where the sizes of voxels look reset to 1 mm",
    "true_voxels": "the volume of a structure in voxels of the subject's own grid, as far as the prepared one reaches; "
    "predicted_voxels likewise: for subjects whose sizes of voxels look reset to 1 mm, which have no mm and no ml",
    "empty": "1 where one of the two label maps lacks the structure; in the means their share",
    "interval_holds": "1 where the volume of a structure lies in the interval that the samples' volumes give at "
    "interval_level, 0 where not; in the means their share; interval_ml is its width; none of one volume",
    "corrected_holds": "the same of the interval as it is corrected on held_out subjects with label maps (split "
    "conformal prediction), corrected_ml is its width; none where these are too few or the model is not calibrated",
    "derived": "a number of generate.derived, in its unit (% or % a year): the true one is of the true label maps of "
    "the baseline and the target, copy-last's of the copied one; interval_width, interval_holds and the corrected ones "
    "as of volumes",
    "copy-last of structures": "the label map of the last observed scan before the target that has one (none before: "
    "the nearest in time), as it is",
    "predicted_ml": "in `structures` the volume of a structure as it is labelled; in `ventricles` that of a labelled "
    "structure (ACDC) in ml in a predicted image: the labels of the observed "
    "labelled scan nearest in time are moved onto it by optical flow, slice by slice; true_ml is that of the target's "
    "own labels, and both are counted on the prepared grid, as far as it reaches",
    "error_ml": "|predicted_ml − true_ml|; in `ventricles` only that of the LV cavity is sound (see own_error_ml)",
    "own_error_ml": "the error of the measure itself, which is the same with the true image in place of a predicted "
    "one: a method that is off by no more cannot be distinguished from the truth. From end-diastole to end-systole of "
    "four ACDC patients it was 2 to 3 ml for the LV cavity, against 39 to 43 ml for labels that stay where they are, "
    "with the scans' own slices and 1.4 to 2.5 mm in plane (8 to 10 ml where slices are resampled or pixels are "
    "larger); but 8 to 11 ml of 15 ml for the myocardium and 45 ml of 68 ml for the RV cavity, whose base leaves the "
    "slices",
}
"""What every number in the results means; written beside them as `definitions.json`."""


def psnr(truth: NDArray, generated: NDArray, region: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB for data range 1, at most `PSNR_CAP`.

    Args:
        truth, generated: of one shape, in [0, 1].
        region: bool, of the same shape: only these voxels count. A region without voxels gives NaN.

    Raises:
        ValueError: the shapes differ.
    """
    difference, _ = _difference(truth, generated, region)
    if not difference.size:
        return float("nan")
    # Written so that NaN stays NaN: a broken volume must not be mistaken for a perfect one.
    error = np.maximum(np.square(difference).mean(), 10 ** (-PSNR_CAP / 10))
    return float(-10 * np.log10(error))


def nrmse(truth: NDArray, generated: NDArray, region: NDArray[np.bool_] | None = None) -> float:
    """Root mean square error over the root mean square of `truth`; NaN where `truth` is black, or without voxels.

    Raises:
        ValueError: the shapes differ.
    """
    difference, true_values = _difference(truth, generated, region)
    norm = float(np.linalg.norm(true_values))
    return float(np.linalg.norm(difference)) / norm if norm else float("nan")


def mae(truth: NDArray, generated: NDArray, region: NDArray[np.bool_] | None = None) -> float:
    """Mean absolute error; NaN without voxels.

    Raises:
        ValueError: the shapes differ.
    """
    difference, _ = _difference(truth, generated, region)
    return float(np.abs(difference).mean()) if difference.size else float("nan")


def ssim(truth: Volume, generated: Volume) -> float:
    """Structural similarity (Wang et al., 2004) in 3D, at most 1: Gaussian weights, sigma 1.5, 11 taps.

    Raises:
        ConfigError: scikit-image is not installed.
        ValueError: the shapes differ.
    """
    return similarity(truth, generated)[0]


def similarity(truth: Volume, generated: Volume) -> tuple[float, Volume]:
    """`ssim`, and the map whose mean without the border it is.

    Raises:
        ConfigError: scikit-image is not installed.
        ValueError: the shapes differ.
    """
    structural_similarity = _scikit_image()
    _same_shape(truth, generated)
    # With Gaussian weights `win_size` no longer sets the filter, only the border left out of the mean; the default of
    # 11 would refuse volumes of fewer slices.
    smallest = min(SSIM_TAPS, *truth.shape)
    window = smallest - (smallest + 1) % 2
    mean, everywhere = structural_similarity(
        truth.astype(np.float64),
        generated.astype(np.float64),
        gaussian_weights=True,
        sigma=SSIM_SIGMA,
        use_sample_covariance=False,
        data_range=1.0,
        win_size=window,
        full=True,
    )
    return float(mean), everywhere


def changed_region(frames: Float[np.ndarray, "t d h w"], present: Bool[np.ndarray, " t"]) -> Region:
    """The voxels whose intensity ranges over more than `CHANGE_THRESHOLD` across the present true frames."""
    true_frames = frames[present].astype(np.float32)
    return np.ptp(true_frames, axis=0) > CHANGE_THRESHOLD


def foreground(frames: Float[np.ndarray, "t d h w"], present: Bool[np.ndarray, " t"]) -> Region:
    """The voxels whose mean over the present true frames is above `FOREGROUND_THRESHOLD`."""
    return frames[present].mean(axis=0, dtype=np.float64) > FOREGROUND_THRESHOLD


def regions_of(frames: Float[np.ndarray, "t d h w"], present: Bool[np.ndarray, " t"]) -> dict[str, Region]:
    """The regions of a subject that scores are taken over, by name (`REGIONS`)."""
    return {"foreground": foreground(frames, present), "changed": changed_region(frames, present)}


def score(truth: Volume, generated: Volume, regions: Mapping[str, Region]) -> dict[str, float]:
    """The `METRICS` of one volume: over all of it, and over each region with the region's name behind (`psnr_changed`).

    Raises:
        ConfigError: scikit-image is not installed.
        ValueError: the shapes differ, or a value is not finite.
    """
    _same_shape(truth, generated)
    if not np.isfinite(generated).all():
        raise ValueError("the volume has values that are not finite")
    mean, everywhere = similarity(truth, generated)
    scores = {"psnr": psnr(truth, generated), "ssim": mean, "nrmse": nrmse(truth, generated)}
    scores["mae"] = mae(truth, generated)
    for name, region in regions.items():
        scores |= {
            f"psnr_{name}": psnr(truth, generated, region),
            f"ssim_{name}": float(everywhere[region].mean()) if region.any() else float("nan"),
            f"nrmse_{name}": nrmse(truth, generated, region),
            f"mae_{name}": mae(truth, generated, region),
        }
    return scores


def require_scikit_image() -> None:
    """Raise ConfigError at once, rather than once a row, when the extra `eval` is not installed."""
    _scikit_image()


def _scikit_image():  # type: ignore[no-untyped-def]
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise ConfigError("evaluation needs scikit-image: install sadm-ray[eval]") from None
    return structural_similarity


def _difference(truth: NDArray, generated: NDArray, region: NDArray[np.bool_] | None) -> tuple[NDArray, NDArray]:
    """Truth minus generated, and the truth, of the region's voxels (none: of all) as float64."""
    _same_shape(truth, generated)
    if region is not None:
        truth, generated = truth[region], generated[region]
    true_values = truth.astype(np.float64)
    return true_values - generated, true_values


def _same_shape(truth: NDArray, generated: NDArray) -> None:
    if truth.shape != generated.shape:
        raise ValueError(f"the true volume is {truth.shape}, the generated one {generated.shape}")
