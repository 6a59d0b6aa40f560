"""Read and write NIfTI, keeping the geometry.

A file's array is (x, y, z[, t]); here a volume is (d, h, w) = (z, y, x) and a sequence (t, d, h, w), which is the
transpose and nothing else. Nothing is reoriented, so the file's affine goes with the volume untouched.

Files are read as streams of bounded pieces: they may be behind a URL, damaged or malicious.
"""

from __future__ import annotations

import gzip
import logging
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float32, Float64, Int32, Shaped
from nibabel.spatialimages import HeaderDataError

from sadm_ray.data.read.gzip_stream import ByteStream
from sadm_ray.data.read.scan_checks import COPY_AGAIN, SPACING_RANGE, affine_faults, header_faults, image_shape
from sadm_ray.data.read.stored_geometry import StoredGeometry
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage

HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
"""Header classes by the number in the first 4 bytes of a file, the length of its header."""

_TIME_UNITS = {8: ("s", 1), 16: ("ms", 1000), 24: ("µs", 1000000)}
"""The codes of `xyzt_units` for times, and how many of the unit are a second."""

_SPACE_UNITS, _SECONDS = 0x07, 0x08  # of xyzt_units
_FORM_CODES = {int(code) for code in nib.nifti1.xform_codes.value_set()}
_LINE_ENDS = [13, 10, 26, 10]  # which a NIfTI-2 header begins with, so that a conversion of text is noticed
_SKIP_BYTES = 2**20  # bytes before the voxels that are passed over at a time
_MAX_PADDING = 512  # zeros that tapes and archives fill their blocks with
_SILENT_LOGGER = logging.Logger("nibabel's remarks on headers")  # outside the tree of loggers, so without handlers
_SILENT_LOGGER.disabled = True


@dataclass(frozen=True, eq=False)
class Image:
    """A NIfTI file that was read to its end.

    `raw` is in the file's type, without the scale factors `slope` and `inter`. `affine` maps (x, y, z) to mm, `spacing`
    (x, y, z; mm) is the header's own, which an affine need not agree with, and `time_step` its fourth voxel size in
    seconds, unchecked (0 where there is no fourth axis); `time_unit` is the header's unit of it, empty if it names none
    (then it is taken for seconds). `sha256` is of the file's bytes as stored. `stored` is what the header says in its
    own units, `remarks` what is odd about that, a line a kind.
    """

    affine: Float64[np.ndarray, "4 4"]
    spacing: tuple[float, float, float]
    time_step: float
    time_unit: str
    sha256: str
    dtype: str
    raw: Shaped[np.ndarray, "x y z t"]
    slope: float
    inter: float
    stored: StoredGeometry
    remarks: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(x, y, z) of every frame."""
        x, y, z, _ = self.raw.shape
        return x, y, z

    @property
    def count(self) -> int:
        """How many frames; 1 for a volume."""
        return self.raw.shape[3]

    def frame(self, index: int) -> Float32[np.ndarray, "d h w"]:
        """One frame in the units of the scanner; its scale factors are applied in float64, a slice at a time."""
        source = self.raw[..., index].T
        volume, unscaled = np.empty(source.shape, dtype=np.float32), (self.slope, self.inter) == (1, 0)
        with np.errstate(over="ignore", invalid="ignore"):  # `voxel_faults` reports it
            for target, plane in zip(volume, source, strict=True):
                target[:] = plane if unscaled else plane.astype(np.float64) * self.slope + self.inter
        return volume


def read_image(storage: Storage, file: str, size: int, limit: int) -> Image:
    """Read a NIfTI file (1 or 2, of either byte order, gzip or not) to its end.

    Memory is that of the voxels as stored and a few pieces; nothing is allocated for a header that promises more than
    the file's size allows. (A frame of 8-bit voxels takes four times as much as float32.)

    Args:
        file: its path in `storage`; its name does not matter.
        size: its bytes as listed; 0 for anything but a regular file, which is not opened.
        limit: the most bytes of voxels that are read.

    Raises:
        DataError: it cannot be used; `problems` are lines of what is wrong and how to mend it, without the file's name.
    """
    if size == 0:
        raise _data_error(f"empty, or no regular file; {COPY_AGAIN} (a DataLad link needs `datalad get`)")
    try:
        with storage.open(file) as source:
            return _read(ByteStream(source), size, limit)
    except EOFError:
        raise _data_error(f"breaks off before its end; {COPY_AGAIN}") from None
    except zlib.error as error:
        raise _data_error(f"damaged gzip ({error}); {COPY_AGAIN}") from None
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _data_error(f"cannot be read ({reason}); see that it is there and may be read, or {COPY_AGAIN}") from None


def nifti_bytes(
    volume: Float[np.ndarray, "*t d h w"] | Int32[np.ndarray, "*t d h w"],
    affine: Float[np.ndarray, "4 4"],
    spacing: Sequence[float] | None = None,
    stored: StoredGeometry | None = None,
    time_step: float = 0.0,
    seconds: bool = True,
) -> bytes:
    """A volume or a sequence as NIfTI (.nii.gz), float32 or of labels int32, that lies exactly where its source lies.

    Equal voxels give equal bytes. With `stored` it is in the source's units, and lies where the source lies for every
    tool, whatever that tool reads of a header. It is NIfTI-1, which all tools read, also of a source in NIfTI-2.

    Args:
        volume: on the grid that `affine` belongs to.
        affine: the source's, voxel (x, y, z) to mm; nibabel reads back exactly this.
        spacing: voxel sizes (x, y, z) of the source's header in mm; none: those of the affine.
        stored: what the source's header says; none: it is not known any more, and `affine` and `spacing` are written.
        time_step: of a sequence, between two frames; 0 where they are not evenly spaced.
        seconds: whether that is in seconds; NIfTI knows no longer unit.
    """
    voxels = np.asarray(volume, dtype=np.int32 if volume.dtype == np.int32 else np.float32).T
    if stored is None:
        image = nib.Nifti1Image(voxels, affine)
        image.header.set_xyzt_units("mm", "sec")
        set_geometry(image, np.asarray(affine, dtype=np.float64), spacing)
    else:
        image = nib.Nifti1Image(voxels, None)
        stored.put_into(image.header, has_time=voxels.ndim > 3)
    if voxels.ndim > 3:
        image.header["pixdim"][4] = time_step
        image.header["xyzt_units"] = int(image.header["xyzt_units"]) & _SPACE_UNITS | (seconds and _SECONDS)
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)  # higher levels gain 1 % on noisy voxels


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


def _data_error(*lines: str) -> DataError:
    return DataError(lines[0], lines)


def _read(stream: ByteStream, size: int, limit: int) -> Image:
    header = _read_header(stream)
    faults = header_faults(header, size, stream.packed, limit)
    if faults:
        raise _data_error(*faults)
    time_step, time_unit = _time_step(header)
    affine, spacing, stored, remarks = _geometry(header)
    for offset in range(int(header["sizeof_hdr"]), int(header["vox_offset"]), _SKIP_BYTES):
        stream.take(min(_SKIP_BYTES, int(header["vox_offset"]) - offset))
    shape, dtype = image_shape(header), header.get_data_dtype()
    voxels = np.empty(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    if stream.fill(voxels.data) < voxels.size:
        raise EOFError
    _read_end(stream, padding=min(_MAX_PADDING, voxels.size // max(shape)))
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):  # which means none in NIfTI
        slope, inter = 1.0, 0.0
    raw = voxels.view(dtype).reshape((*shape, 1)[:4], order="F")
    digest = stream.digest.hexdigest()
    return Image(affine, spacing, time_step, time_unit, digest, dtype.name, raw, slope, inter, stored, remarks)


def _read_header(stream: ByteStream) -> Any:
    """The header as stored; only its kind is checked."""
    start = stream.take(4)
    little, big = (HEADERS.get(int.from_bytes(start, order)) for order in ("little", "big"))
    kind = little or big
    if kind is None:
        raise _data_error(f"no NIfTI file; convert it to .nii.gz (dcm2niix does from DICOM) or {COPY_AGAIN}")
    block = start + stream.take(kind.sizeof_hdr - len(start))
    header = kind(block, endianness="little" if little else "big", check=False)
    if header["magic"].item() != kind.single_magic:
        raise _data_error(f"no single NIfTI file, or half of a pair; convert it to .nii.gz or {COPY_AGAIN}")
    return header


def _time_step(header: Any) -> tuple[float, str]:
    """The fourth voxel size in seconds, and the unit that the header gives it: empty without, or if it is no time."""
    if header["dim"][0] <= 3:
        return 0.0, ""
    unit, units_a_second = _TIME_UNITS.get(int(header["xyzt_units"]) & 0x38, ("", 1))
    return float(str(header["pixdim"][4])) / units_a_second, unit


def _geometry(
    header: Any,
) -> tuple[Float64[np.ndarray, "4 4"], tuple[float, float, float], StoredGeometry, dict[str, str]]:
    """Affine and voxel sizes in mm, as in nibabel, so that other tools show the voxels in the same place; what the
    header says in its own units; and remarks on that.
    """
    stored = StoredGeometry.of(header)
    sizes = np.abs(header["pixdim"][1:4].astype(np.float64))
    try:
        with np.errstate(all="ignore"):
            if not is_sound(header):
                header.check_fix(logger=_SILENT_LOGGER)
            found = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise _data_error(f"its header makes no sense ({error}); set a valid sform or qform, or {COPY_AGAIN}") from None
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(found[:3, :3], axis=0)
        mm = stored.mm(norms.tolist())
        affine = np.diag([mm, mm, mm, 1.0]) @ found if mm != 1 else found
    sizes_valid = bool(((sizes * mm >= SPACING_RANGE[0]) & (sizes * mm <= SPACING_RANGE[1])).all())  # NaN is not
    faults = affine_faults(affine)
    if not sizes_valid and not header["sform_code"]:
        faults = [f"its header has no valid voxel sizes ({', '.join(f'{size:g}' for size in sizes)}); set pixdim"]
    if faults:
        raise _data_error(*faults)
    if not sizes_valid:  # and no rotation of them
        pixdim = (stored.pixdim[0], *norms.tolist(), *stored.pixdim[4:])
        stored = replace(stored, pixdim=pixdim, qform_code=0)
    x, y, z = (float(size * mm) for size in (sizes if sizes_valid else norms))
    return affine, (x, y, z), stored, dict(stored.remarks(header, found, norms, mm))


def is_sound(header: Any) -> bool:
    """Whether nibabel's `check_fix` would find nothing: it takes as long as unpacking a small file.

    Of a header without `header_faults`, and of a kind that `HEADERS` knows.
    """
    pixdim, offset = header["pixdim"], float(header["vox_offset"])
    return (
        pixdim[0] in (-1, 1)
        and bool((pixdim[1:4] > 0).all())
        and {int(header["qform_code"]), int(header["sform_code"])} <= _FORM_CODES
        and offset >= header.single_vox_offset
        and offset % 16 == 0
        and (header.sizeof_hdr == 348 or header["eol_check"].tolist() == _LINE_ENDS)
    )


def _read_end(stream: ByteStream, padding: int) -> None:
    """Read the rest, so that gzip's checksum is verified; it may be zeros that fill up a block, and no more than them.

    `padding` is at most what one voxel more along any axis takes, so that a header that promises too little is noticed.
    """
    rest = bytearray(padding)
    count = stream.fill(memoryview(rest))
    if count == len(rest) or any(rest):
        raise _data_error(f"holds more voxels than its header promises; {COPY_AGAIN}")
