"""Where a NIfTI header puts its voxels: the fields as they stand in the file, and whether they agree.

A header has up to three answers: the qform (a rotation, of the voxel sizes in `pixdim`), the sform (any affine), and
the sizes alone. Tools choose between them by rules of their own. So what lies on the grid of a file gets all three as
that file has them, codes and units too: then every tool puts it where it puts the file.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from nibabel.spatialimages import HeaderDataError

from sadm_ray.data.read.scan_checks import SPACING_RANGE

_UNITS = {1: ("m", 1e3), 3: ("µm", 1e-3)}
"""NIfTI's codes of units of length other than mm: what they are called, and mm in one."""
_LARGEST_VOXEL = 100.0
"""mm; a header that says metres and means mm has larger ones."""
_SIZE_TOLERANCE = 0.01
_PLACE_TOLERANCE = 0.1  # of the smallest voxel, as between two scans of a subject
_SPACE_UNITS = 7  # the bits of xyzt_units for units of length


_QFORM = (("quatern", "bcd"), ("qoffset", "xyz"))


@dataclass(frozen=True)
class StoredGeometry:
    """The fields of a NIfTI header that say where its voxels lie, in the file's own units.

    `pixdim` has 8 numbers, `quatern` (b, c, d), `qoffset` (x, y, z), `srow` 3 rows of 4.
    """

    qform_code: int
    sform_code: int
    xyzt_units: int
    pixdim: tuple[float, ...]
    quatern: tuple[float, ...]
    qoffset: tuple[float, ...]
    srow: tuple[float, ...]

    @classmethod
    def of(cls, header: Any) -> StoredGeometry:
        """Those of nibabel's header, uncorrected; a form of NaN or infinity counts as none."""
        fields = header.structarr  # the fields themselves: by the header, each would be wrapped
        quatern, qoffset = ([float(fields[f"{name}_{axis}"]) for axis in axes] for name, axes in _QFORM)
        srow = [value for axis in "xyz" for value in fields[f"srow_{axis}"].tolist()]
        return cls(
            qform_code=int(fields["qform_code"]) if all(map(math.isfinite, (*quatern, *qoffset))) else 0,
            sform_code=int(fields["sform_code"]) if all(map(math.isfinite, srow)) else 0,
            xyzt_units=int(fields["xyzt_units"]),
            pixdim=_finite(fields["pixdim"].tolist()),
            quatern=_finite(quatern),
            qoffset=_finite(qoffset),
            srow=_finite(srow),
        )

    def put_into(self, header: Any, *, has_time: bool) -> None:
        """Put them into nibabel's header of a volume, or of a sequence, whose step in time is another."""
        header["qform_code"], header["sform_code"] = self.qform_code, self.sform_code
        for (name, axes), values in zip(_QFORM, (self.quatern, self.qoffset), strict=True):
            for axis, value in zip(axes, values, strict=True):
                header[f"{name}_{axis}"] = value
        for row, axis in enumerate("xyz"):
            header[f"srow_{axis}"] = self.srow[4 * row : 4 * row + 4]
        if has_time:
            header["pixdim"][:4] = self.pixdim[:4]
            header["xyzt_units"] = self.xyzt_units & _SPACE_UNITS
        else:
            header["pixdim"] = self.pixdim
            header["xyzt_units"] = self.xyzt_units

    def to_json(self) -> str:
        """For a shard's row; `from_json` reads it."""
        return json.dumps(vars(self), allow_nan=False)

    @staticmethod
    def from_json(text: str) -> StoredGeometry:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        for name, value in fields.items():
            if isinstance(value, list):
                fields[name] = tuple(value)
        return StoredGeometry(**fields)

    def mm(self, sizes: Sequence[float]) -> float:
        """How many mm one unit of the file is, whose voxels have these sizes in it.

        It is 1 where the header names another unit and the voxels of a body cannot be meant in that.
        """
        scale = self._stated_mm
        least, largest = min(sizes) * scale, max(sizes) * scale
        return scale if least >= SPACING_RANGE[0] and largest <= _LARGEST_VOXEL else 1.0

    @property
    def _stated_mm(self) -> float:
        return _UNITS.get(self.xyzt_units & _SPACE_UNITS, ("mm", 1.0))[1]

    def remarks(
        self, header: Any, affine: Float[np.ndarray, "4 4"], sizes: Float[np.ndarray, " 3"], mm: float
    ) -> Iterator[tuple[str, str]]:
        """What a user should know: kind and line, of which each kind need be told once.

        Args:
            header: nibabel's, corrected.
            affine: the one that is used, in units of the file, as are `sizes`, those of its voxels.
            mm: how many mm such a unit is.
        """
        unit = _UNITS.get(self.xyzt_units & _SPACE_UNITS, ("mm", 1.0))[0]
        if unit != "mm" and mm == 1:
            yield (
                "unit",
                f"its header counts in {unit}, which makes voxels of {_product(sizes * self._stated_mm)} mm; taken as "
                f"mm ({_product(sizes)}); set xyzt_units to mm",
            )
        elif unit != "mm":
            yield (
                "unit",
                f"its header counts in {unit}: voxels of {_product(sizes)} {unit} are {_product(sizes * mm)} mm; "
                "set xyzt_units if mm were meant",
            )
        if not self.qform_code and not self.sform_code:
            yield (
                "codes",
                "has neither qform nor sform (both codes are 0), so tools differ on what is left and right; set one "
                "from the scanner's images",
            )
        if self.qform_code and self.sform_code:
            shape = [max(int(size), 1) for size in header["dim"][1:4]]
            off = _farthest(_qform(header) - affine, shape)
            if not off <= _PLACE_TOLERANCE * sizes.min():  # NaN is not
                place = f"puts its voxels up to {off * mm:.3g} mm from where its sform does"
                what = place if off < np.inf else "is no rotation"
                yield (
                    "forms",
                    f"its qform {what}; the sform is taken, other tools may take the qform: copy the right one over "
                    "the other, or set the wrong one's code to 0",
                )
        stored = np.abs(self.pixdim[1:4])
        if (stored > 0).all() and (np.abs(stored / sizes - 1) > _SIZE_TOLERANCE).any():
            yield (
                "sizes",
                f"pixdim has voxels of {_product(stored * mm)} mm, the affine of {_product(sizes * mm)} mm; sizes are "
                "taken from pixdim, places from the affine: correct the wrong one",
            )


def _finite(values: Sequence[float]) -> tuple[float, ...]:
    return tuple([value if math.isfinite(value) else 0.0 for value in values])


def _qform(header: Any) -> Float64[np.ndarray, "4 4"]:
    """The affine of the qform; infinity where its numbers are no rotation."""
    try:
        with np.errstate(all="ignore"):
            return np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        return np.full((4, 4), np.inf)


def _farthest(difference: Float64[np.ndarray, "4 4"], shape: Sequence[int]) -> float:
    """How far apart two affines put a corner of the grid, at most."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in shape))])
    with np.errstate(all="ignore"):
        found = np.linalg.norm(corners @ difference.T, axis=1).max()
    return float(found) if np.isfinite(found) else math.inf


def _product(sizes: Sequence[float] | np.ndarray) -> str:
    return " × ".join(f"{size:.3g}" for size in sizes)
