"""Read a label map and bring it onto the grid of its scan's subject; a label is never mixed with another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int32
from numpy.typing import NDArray

from sadm_ray.data.find.label_files import LabelFile
from sadm_ray.data.find.label_names import Names
from sadm_ray.data.read.nifti_io import Image, read_image
from sadm_ray.data.read.scan_checks import Geometry, spacing_warning
from sadm_ray.data.read.visit_grid import Placement, place
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage

LIMIT = 10**9
"""The most bytes of voxels that are read of a label map."""

_NO_LABELS = "no label map: whole numbers are expected"


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels on some grid, and what their values are called.

    Attributes:
        names: of the values that count; where no table names them, `label 3` for each value that occurs. 0 is the
            background.
    """

    labels: Int32[np.ndarray, "d h w"]
    names: Names

    @property
    def structures(self) -> tuple[str, ...]:
        """All that are named, each once, whether or not it has voxels."""
        return tuple(dict.fromkeys(self.names.values()))

    def mask(self, structure: str) -> Bool[np.ndarray, "d h w"]:
        """The voxels of a structure, which may have several values."""
        values = [value for value, name in self.names.items() if name == structure]
        return np.isin(self.labels, values)

    def counts(self) -> dict[str, int]:
        """How many voxels each structure has."""
        counted = dict(zip(*(each.tolist() for each in np.unique(self.labels, return_counts=True)), strict=True))
        found = dict.fromkeys(self.structures, 0)
        for value, name in self.names.items():
            found[name] += counted.get(value, 0)
        return found

    def unknown(self) -> list[int]:
        """The values that occur and have no name."""
        return [value for value in np.unique(self.labels).tolist() if value and value not in self.names]


@dataclass(frozen=True, eq=False)
class LabelMap(Labelled):
    """A label map as its file has it; `file`, `shape` and `affine` are its grid (`scan_checks.Geometry`).

    `spacing` (x, y, z) is the header's own, in mm.
    """

    file: str
    shape: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]
    spacing: tuple[float, float, float]
    by_voxel: bool

    @property
    def voxel_ml(self) -> float | None:
        """The volume of a voxel by the header's sizes; None where they are not to be believed."""
        return None if spacing_warning(self.spacing, self.shape) else float(np.prod(self.spacing)) / 1000

    def on(self, first: Geometry, moved: Sequence[float] | None = None) -> Labelled:
        """The labels on the grid of the subject's first visit, brought there as their scan was.

        Each voxel takes the label of the nearest one. On another grid they lie where their header says; ACDC's stay as
        they are where the shape is that of the scan.

        Args:
            moved: what a registration of the visit found (`visit_grid.Placement`), 4 × 4 numbers.

        Raises:
            DataError: they lie outside of the scan, or have another shape though they lie on it voxel for voxel.
        """
        placement = self._placement(first, moved)
        if placement is None:
            if self.shape != first.shape:
                raise DataError(f"has {self.shape} voxels where the grid has {first.shape}; draw it on the scan's grid")
            return Labelled(self.labels, self.names)
        labels = placement.labels(self.labels)
        if self.labels.any() and not labels.any():
            raise DataError("its labels lie outside of the scan; correct its qform and sform")
        return Labelled(labels, self.names)

    def lies(self, first: Geometry) -> str:
        """How it lies on the grid of its scan: `same`, `turned`, or on `another` one."""
        placement = self._placement(first, None)
        if placement is None:
            return "another"
        return ("turned" if placement.turns else "same") if placement.exact else "another"

    def _placement(self, first: Geometry, moved: Sequence[float] | None) -> Placement | None:
        """How it comes onto the first visit's grid; None: as it is, against its header."""
        space = np.eye(4) if moved is None else np.reshape(np.asarray(moved, dtype=np.float64), (4, 4))
        if moved is None:
            try:
                return place(first, self, "none")
            except DataError:
                if self.by_voxel:
                    return None
        index_map = np.linalg.solve(self.affine, space @ first.affine)
        return Placement(index_map, first.shape, exact=False, moved=space)


def read_label_map(storage: Storage, label: LabelFile, frame: int | None) -> LabelMap:
    """Read a label map to its end.

    Args:
        frame: of the scan (from 0), if that is a 4D file; used where the label map is one, too.

    Raises:
        DataError: it cannot be read, or holds no labels.
    """
    image = read_image(storage, label.file, label.size, LIMIT)
    if image.count > 1 and (frame is None or frame >= image.count):
        raise DataError(f"{_NO_LABELS}, one volume; it has {image.count} volumes")
    if image.count == 1 and frame is not None and not label.by_voxel:
        raise DataError("is one volume where its scan has several; give a label map with as many")
    labels = _whole(image, frame if image.count > 1 and frame is not None else 0)
    names: Mapping[int, str] = label.names or {value: f"label {value}" for value in np.unique(labels).tolist() if value}
    return LabelMap(labels, names, label.file, image.shape, image.affine, image.spacing, label.by_voxel)


def _whole(image: Image, index: int) -> Int32[np.ndarray, "d h w"]:
    unscaled = (image.slope, image.inter) == (1, 0) and image.raw.dtype.kind in "iu"
    values: NDArray = image.raw[..., index].T if unscaled else image.frame(index)
    with np.errstate(invalid="ignore"):  # values beyond int32 are found to differ below
        labels = values.astype(np.int32)
    if not np.array_equal(labels, values):
        raise DataError(_NO_LABELS)
    return np.ascontiguousarray(labels)
