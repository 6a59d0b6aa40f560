"""Rigid registration of a visit to the first, by SimpleITK (Lowekamp et al., Frontiers in Neuroinformatics 2013)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from sadm_ray.errors import ConfigError

_LEVELS = (4, 2, 1)
"""How much coarser the grids of the levels are, the coarsest first."""
_BINS, _SEED = 32, 1
_LEAST_SAMPLED, _SAMPLES = 0.2, 200_000
"""Of the voxels, the share that is compared, and how many in small scans."""
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def require_registration(register: str) -> None:
    """Raises ConfigError where `rigid` is wanted and SimpleITK is not installed."""
    if register == "rigid" and find_spec("SimpleITK") is None:
        raise ConfigError(
            "data.register=rigid needs SimpleITK; install it: pip install 'sadm-ray[register]', or use header"
        )


def register_rigid(
    fixed: Float32[np.ndarray, "d h w"],
    fixed_affine: Float64[np.ndarray, "4 4"],
    moving: Float32[np.ndarray, "D H W"],
    moving_affine: Float64[np.ndarray, "4 4"],
) -> Float64[np.ndarray, "4 4"] | None:
    """The rotation and translation from mm of the first visit to mm of another where the same anatomy lies.

    Mutual information, which a gain or another contrast does not change, is climbed from where the headers put both
    scans and from where their centres of mass meet; the better end counts. Two calls give the same numbers.

    Args:
        fixed: the first visit, on the grid of `fixed_affine` (voxel x, y, z to mm).
        moving: the visit to be aligned.

    Returns:
        None where nothing better than the headers is found, or an affine is sheared, which SimpleITK has no word for.
    """
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # one actor a core; and sums in one order
    images = [_image(volume, affine) for volume, affine in ((fixed, fixed_affine), (moving, moving_affine))]
    if any(image is None for image in images):
        return None
    target, source = images
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, max(_LEAST_SAMPLED, _SAMPLES / fixed.size)), _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        2.0, 1e-4, 500, relaxationFactor=0.7, gradientMagnitudeTolerance=1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(_fitting(fixed.shape))
    method.SetSmoothingSigmasPerLevel([level / 2 if level > 1 else 0.0 for level in _fitting(fixed.shape)])
    centre = target.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in target.GetSize()])
    by_header = sitk.Euler3DTransform()
    by_header.SetCenter(centre)
    by_mass = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            target, source, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    method.SetInitialTransform(by_header, inPlace=False)
    best, found = method.MetricEvaluate(target, source), None
    for start in (by_header, by_mass):
        method.SetInitialTransform(start, inPlace=False)
        try:
            end = method.Execute(target, source)
        except RuntimeError:  # it left the other's grid
            continue
        if method.GetMetricValue() < best:
            best, found = method.GetMetricValue(), end
    return None if found is None else _TO_LPS @ _matrix(found) @ _TO_LPS


def _fitting(shape: tuple[int, ...]) -> list[int]:
    """The levels that leave eight voxels along the shortest axis; at least the finest."""
    return [level for level in _LEVELS if level == 1 or min(shape) >= 8 * level]


def _image(volume: Float32[np.ndarray, "d h w"], affine: Float64[np.ndarray, "4 4"]) -> Any:
    """The volume for SimpleITK, whose axes run to the left and back; none where the affine shears."""
    import SimpleITK as sitk  # noqa: N813

    lps = _TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        return None
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume))
    image.SetSpacing([float(size) for size in spacing])
    image.SetOrigin([float(value) for value in lps[:3, 3]])
    image.SetDirection([float(value) for value in direction.ravel()])
    return image


def _matrix(transform: Any) -> Float64[np.ndarray, "4 4"]:
    """x ↦ R (x − c) + c + t as a matrix, from the images of four points."""
    origin = np.asarray(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    for axis in range(3):
        matrix[:3, axis] = np.asarray(transform.TransformPoint(tuple(np.eye(3)[axis]))) - origin
    return matrix
