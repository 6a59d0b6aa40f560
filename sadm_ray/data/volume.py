"""NIfTI in and out, with the geometry kept.

A file's array is (x, y, z[, t]); here a volume is (d, h, w) = (z, y, x) and a sequence (t, d, h, w), which is the
transpose and nothing else. Nothing is reoriented, so the file's affine goes with the volume untouched.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float, Float32

from sadm_ray.data.catalog import Subject
from sadm_ray.data.checks import READ_ERRORS, frame_faults, open_image
from sadm_ray.errors import DataError


def load_frames(subject: Subject) -> Float32[np.ndarray, "t d h w"]:
    """The voxels of a subject's frames, end-diastole to end-systole, in the units of the scanner.

    Scale factors of the headers are applied.

    Raises:
        DataError: a file cannot be read to its end, or its values fail `frame_faults`; all faults in `problems`.
    """
    files: dict[Path, Float32[np.ndarray, "t d h w"]] = {}
    for path in dict.fromkeys(frame.path for frame in subject.frames):
        # The whole file even if some of its frames are not needed: that is how a truncated one is found out.
        files[path] = _read(path, ndim=3 if subject.frames[0].index is None else 4)
    frames = np.stack([files[frame.path][frame.index or 0] for frame in subject.frames])
    faults = []
    for path in files:
        mine = [position for position, frame in enumerate(subject.frames) if frame.path == path]
        faults += frame_faults(path, frames[mine])
    if faults:
        raise DataError(faults[0], faults)
    return frames


def save_volume(
    path: Path,
    volume: Float[np.ndarray, "d h w"],
    affine: Float[np.ndarray, "4 4"],
    spacing: Sequence[float] | None = None,
) -> None:
    """Write a volume as float32 NIfTI that lies exactly where its source lies.

    Args:
        path: ends in `.nii` or `.nii.gz`; it appears complete or not at all.
        volume: on the grid that `affine` belongs to.
        affine: the source's, voxel (x, y, z) to mm; nibabel reads back exactly this.
        spacing: voxel sizes (x, y, z) of the source's header in mm; none: those of the affine.
    """
    image = nib.Nifti1Image(np.asarray(volume, dtype=np.float32).T, affine)
    image.header.set_xyzt_units("mm", "sec")
    set_geometry(image, np.asarray(affine, dtype=np.float64), spacing)
    write_image(path, image)


def set_geometry(image: Any, affine: Float[np.ndarray, "4 4"], spacing: Sequence[float] | None = None) -> None:
    """Put `affine` into a NIfTI header such that reading gives back the same numbers.

    Both sform and qform carry it where they can. The qform cannot if the affine shears, or if the header's voxel sizes
    contradict it (as in ACDC's frame files), and is then switched off; the sform is switched off where its float32
    would round an affine that the source itself kept as a qform.
    """
    header = image.header
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_sform(affine, code=2)
    if np.array_equal(header.get_sform(), affine):
        agrees = np.allclose(header.get_qform(), affine, atol=1e-3)
        if spacing is not None and not np.allclose(header.get_zooms()[:3], spacing, rtol=1e-3):
            agrees = False
            header.set_zooms((*(float(size) for size in spacing), *header.get_zooms()[3:]))
        if not agrees:
            header["qform_code"] = 0
    elif np.array_equal(header.get_qform(), affine):
        header["sform_code"] = 0


def write_image(path: Path, image: Any) -> None:
    """Write a nibabel image under a temporary name beside `path`, then move it there in one step."""
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else ".nii"
    partial = path.with_name(f".{path.name.removesuffix(suffix)}.{os.getpid()}{suffix}")
    try:
        nib.save(image, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path, ndim: int) -> Float32[np.ndarray, "t d h w"]:
    image = open_image(path, ndim)
    try:
        voxels = np.asarray(image.dataobj, dtype=np.float32)
    except READ_ERRORS as error:
        raise DataError(f"{path}: breaks off before its end ({error}); copy it again from its source") from None
    return np.ascontiguousarray(voxels.T).reshape(-1, *voxels.shape[2::-1])
