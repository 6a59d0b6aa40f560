"""What can be wrong with a scan, and how to mend it.

A function of faults returns lines, one a fault: what is wrong, a semicolon, how to mend it. The caller adds the file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64

DEFLATE_LIMIT = 1032
"""No deflate stream grows by more than this factor (zlib's own bound)."""

MAX_OFFSET = 64 * 2**20
"""Bytes before the voxels. Header extensions take kilobytes; a larger offset is damage."""

SPACING_RANGE = (1e-3, 1e3)
"""Voxel sizes in mm that a scan of a body can have."""

COPY_AGAIN = "copy it again from its source"


@runtime_checkable
class Geometry(Protocol):
    """The voxel grid of a file: shape (x, y, z), affine from voxel to mm."""

    @property
    def file(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def affine(self) -> Float64[np.ndarray, "4 4"]: ...


@runtime_checkable
class Facts(Geometry, Protocol):
    """A grid and the voxel sizes (x, y, z; mm) of the file's header, which an affine need not agree with."""

    @property
    def spacing(self) -> tuple[float, float, float]: ...


def image_shape(header: Any) -> tuple[int, ...]:
    """The sizes that a NIfTI header promises, without trailing axes of size 1 beyond the third."""
    sizes = [int(size) for size in header["dim"]]
    shape = sizes[1 : max(sizes[0], 0) + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


def header_faults(header: Any, size: int, packed: bool, limit: int) -> list[str]:
    """Faults of a NIfTI header as it stands in the file, found before anything is allocated for its voxels.

    Args:
        header: nibabel's, uncorrected.
        size: bytes of the file as stored.
        packed: whether they are gzip.
        limit: the most bytes of voxels, as they are stored, and of a frame as float32.
    """
    shape, axes = image_shape(header), int(header["dim"][0])
    if not 1 <= axes <= 7 or min(shape) < 1:
        return [f"its header promises the impossible shape {shape} on {axes} axes; {COPY_AGAIN}"]
    if len(shape) not in (3, 4):
        return [f"has the axes {shape} where (x, y, z) or (x, y, z, t) is needed; store each volume with three axes"]
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        return [f"its header names an unknown data type (code {int(header['datatype'])}); {COPY_AGAIN}"]
    if dtype.kind not in "iuf":
        return [f"holds {dtype.name} voxels; convert it to a real, scalar type such as int16 or float32"]
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        bits = int(header["bitpix"])
        return [f"its header contradicts itself ({dtype.name} voxels of {bits} bits); {COPY_AGAIN} or set bitpix"]
    offset, first = float(header["vox_offset"]), int(header["sizeof_hdr"]) + 4
    if not (offset.is_integer() and first <= offset <= MAX_OFFSET):
        return [f"its header puts the first voxel at byte {offset:g}, where none can be; {COPY_AGAIN}"]
    faults = []
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if math.isinf(slope) or (slope and not math.isnan(slope) and not math.isfinite(inter)):
        faults.append(f"its scale factors are no numbers ({slope:g}, {inter:g}); set scl_slope and scl_inter")
    promised = math.prod(shape) * dtype.itemsize
    possible = size * DEFLATE_LIMIT if packed else size - int(offset)
    if promised > possible:
        faults.append(
            f"its header promises {promised:,} bytes of voxels {shape}, but a file of this size holds at most "
            f"{max(possible, 0):,}; it is truncated or broken: {COPY_AGAIN}"
        )
    elif max(promised, 4 * math.prod(shape[:3])) > limit:  # a frame is used as float32
        faults.append(
            f"its header promises {promised / 1e9:.3g} GB of voxels {shape}, but only {limit / 1e9:.3g} GB are read of "
            f"a file; raise data.max_scan_gb if it is meant to be that large, else {COPY_AGAIN}"
        )
    return faults


def affine_faults(affine: Float[np.ndarray, "4 4"]) -> list[str]:
    """Faults of the map from voxel to mm: not finite, singular, or of voxels that no scanner makes."""
    if not np.isfinite(affine).all():
        return ["its affine holds NaN or infinity; set a valid sform or qform"]
    with np.errstate(over="ignore"):
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not sizes.all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 0.01:
        return ["its affine is singular, so voxels have no place in space; set a valid sform or qform"]
    if sizes.min() < SPACING_RANGE[0] or sizes.max() > SPACING_RANGE[1]:
        voxel = " × ".join(f"{size:.3g}" for size in sizes)
        return [f"its affine makes voxels of {voxel} mm; set a valid sform or qform in mm"]
    return []


def voxel_range(volume: Float32[np.ndarray, "d h w"]) -> tuple[float, float]:
    """The least and the greatest value; NaN if any voxel is."""
    return float(volume.min()), float(volume.max())


def voxel_faults(volume: Float32[np.ndarray, "d h w"], low: float, high: float) -> list[str]:
    """Faults of the values, whose range is `low` to `high`: NaN or infinity anywhere, or no contrast at all."""
    if not (math.isfinite(low) and math.isfinite(high)):
        broken = volume.size - int(np.count_nonzero(np.isfinite(volume)))
        return [f"{broken:,} of {volume.size:,} voxels are NaN or infinite; replace them or export the scan again"]
    if high - low < float(np.finfo(np.float32).tiny):
        return [f"every voxel is {low:g}; export the scan again"]
    if high - low > float(np.finfo(np.float32).max):
        return [f"its voxels range from {low:g} to {high:g}; mend its scale factors or export the scan again"]
    return []


def voxel_digest(volume: Float32[np.ndarray, "d h w"]) -> str:
    """SHA-256 of the voxels, by which a scan is known again that was saved anew. One without contrast is nobody's."""
    return hashlib.sha256(np.ascontiguousarray(volume).data).hexdigest()


def spacing_warning(spacing: Sequence[float], shape: Sequence[int]) -> list[str]:
    """Whether the voxel sizes (x, y, z; mm) look as if a conversion had reset them to 1 mm.

    A rule of thumb: 1 mm along every axis, and yet the field of view (as many mm as voxels) is a slab: less than 30 mm,
    or less than a quarter of its largest extent, along the shortest axis. Stacks of thick slices look like that; scans
    whose voxels are isotropic cover about as much along every axis.
    """
    slab = min(shape) < 30 or min(shape) < max(shape) / 4
    if slab and all(abs(size - 1) < 1e-3 for size in spacing):
        extent = " × ".join(str(size) for size in shape)
        return [f"spacing looks reset to 1 mm ({extent} voxels); correct pixdim and affine if data.spacing is used"]
    return []


def cycle_faults(ed: int, es: int, count: int) -> list[str]:
    """Faults of the frames `ed` and `es`, from 1, of a cine of `count` frames."""
    if count < 2:
        return ["holds a single volume where a cine (x, y, z, t) is needed; store its frames along a fourth axis"]
    faults = [
        f"{key} is frame {frame}, but the cine has frames 1 to {count}; correct {key} in Info.cfg"
        for key, frame in (("ED", ed), ("ES", es))
        if not 1 <= frame <= count
    ]
    if ed == es:
        faults.append(f"ED and ES are both frame {ed}, which leaves no sequence; correct one of them in Info.cfg")
    return faults
