"""What can be wrong with a scan, and how to mend it.

Every function returns lines, one a fault, that name the file and the mend; none means that nothing is wrong. Only
`open_image` raises, since a file that does not open leaves nothing to go on with.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float32
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from sadm_ray.errors import DataError

READ_ERRORS = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError)
"""What nibabel, gzip and numpy raise on files that are missing, truncated or no NIfTI at all."""

MAX_BYTES = 16 * 2**30
"""No cine or visit comes near it, so a header that asks for more is broken."""

DEFLATE_LIMIT = 1032
"""No deflate stream grows by more than this factor (zlib's own bound)."""


def open_image(path: Path, ndim: int) -> Any:
    """Open a NIfTI file, reading its header and none of its voxels.

    Args:
        path: a `.nii` or `.nii.gz` file.
        ndim: 3 for one frame, 4 for a sequence (x, y, z, t).

    Returns:
        The nibabel image, its voxels still on disk.

    Raises:
        DataError: the file cannot be opened, or its header fails `header_faults`.
    """
    try:
        image = nib.load(path)  # type: ignore[no-untyped-call,unused-ignore]
        faults = header_faults(path, image, ndim)
    except READ_ERRORS as error:
        raise DataError(f"{path}: cannot be read as NIfTI ({_reason(error)}); copy it again from its source") from None
    if faults:
        raise DataError(faults[0], faults)
    return image


def header_faults(path: Path, image: Any, ndim: int) -> list[str]:
    """Faults of a header, found before anything is allocated for the voxels that it promises."""
    shape = tuple(int(size) for size in image.shape)
    if len(shape) != ndim:
        wanted = "a volume (x, y, z)" if ndim == 3 else "a sequence (x, y, z, t)"
        return [f"{path}: has {len(shape)} axes {shape} where {wanted} is needed; store it with {ndim} axes"]
    if min(shape) < 1:
        return [f"{path}: its header promises the impossible shape {shape}; copy it again from its source"]
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        return [f"{path}: holds {dtype} voxels; convert it to a real, scalar type such as int16 or float32"]
    faults = []
    promised, credible = math.prod(shape) * dtype.itemsize, _credible_bytes(path)
    if promised > credible:
        faults.append(
            f"{path}: its header promises {promised:,} bytes of voxels {shape}, but a file of this size holds at most "
            f"{credible:,}; it is truncated or broken: copy it again from its source"
        )
    matrix = image.affine[:3, :3]
    if not np.isfinite(image.affine).all() or np.linalg.matrix_rank(matrix) < 3:
        faults.append(f"{path}: its affine is singular, so voxels have no place in space; set a valid sform or qform")
    return faults


def frame_faults(path: Path, frames: Float32[np.ndarray, "t d h w"]) -> list[str]:
    """Faults of voxel values: NaN or infinity anywhere, or a frame without any contrast."""
    broken = np.flatnonzero(~np.isfinite(frames).all(axis=(1, 2, 3)))
    if broken.size:
        return [f"{path}: NaN or infinite voxels in {_frames(broken)}; replace them or export the scan again"]
    flat = np.flatnonzero(np.ptp(frames, axis=(1, 2, 3)) == 0)
    if flat.size:
        return [f"{path}: every voxel has the same value in {_frames(flat)}; export the scan again"]
    return []


def cycle_faults(info: Path, ed: int, es: int, count: int) -> list[str]:
    """Faults of the 1-based frames `ed` and `es` of an `Info.cfg` beside a sequence of `count` frames."""
    faults = [
        f"{info}: {key} is frame {frame}, but the sequence has frames 1 to {count}; correct {key}"
        for key, frame in (("ED", ed), ("ES", es))
        if not 1 <= frame <= count
    ]
    if ed == es:
        faults.append(f"{info}: ED and ES are both frame {ed}, which leaves no sequence; correct one of them")
    return faults


def _credible_bytes(path: Path) -> int:
    size = path.stat().st_size
    return min(size * DEFLATE_LIMIT if path.suffix == ".gz" else size, MAX_BYTES)


def _frames(indices: np.ndarray) -> str:
    more = f" and {indices.size - 1} more" if indices.size > 1 else ""
    return f"frame {indices[0] + 1} of the sequence{more}"


def _reason(error: BaseException) -> str:
    """The first line of an error: some of nibabel's have several, and `EOFError` may have none."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
