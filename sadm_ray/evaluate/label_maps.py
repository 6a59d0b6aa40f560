"""The label maps beside the scans of an ACDC study, brought to the grid of its prepared volumes.

They are looked up where the scans were when the study was prepared, and only when it is scored: shards do not hold
them. Where the scans are no longer there (or are named relative to another folder than this) there are no labels, which
is not reported: scores of structures are an addition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int16
from numpy.typing import NDArray

from sadm_ray.data.find import Problem
from sadm_ray.data.normalise.spatial import SpatialTransform
from sadm_ray.data.read.nifti_io import read_image
from sadm_ray.data.read.scan_checks import Geometry
from sadm_ray.data.read.visit_grid import place
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import DataError
from sadm_ray.storage import IMAGE_SUFFIXES, Storage

LIMIT = 10**9
"""The most bytes of voxels that are read of a label map."""


def scans_of(study: Study) -> Storage | None:
    """Where the scans of a study were; None where its layout is not ACDC, the only one whose labels are known.

    A relative folder is resolved in this process, so call this before the work is distributed.
    """
    root = study.settings.get("root")
    return Storage(root) if root and study.settings["layout"] == "acdc" else None


@dataclass(frozen=True)
class _Grid:
    """As `sadm_ray.data.read.scan_checks.Geometry`."""

    file: str
    shape: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]


@dataclass
class LabelMaps:
    """The label maps of one subject, each read when it is first needed.

    Attributes:
        scans: where they are looked for; None: nowhere.
        sources: a slot each, the file and frame that it holds (`sadm_ray.data.shards.subject_row.ROW_SCHEMA`).
        voxel_mm: size of a voxel of the prepared grid along d h w.
        affine: of the first visit's own grid, (x, y, z) to mm.
        problems: a line for each label map that cannot be used.
    """

    subject: str
    scans: Storage | None
    sources: Sequence[Mapping[str, Any] | None]
    grid: SpatialTransform
    voxel_mm: tuple[float, float, float]
    affine: Float[np.ndarray, "4 4"]
    problems: list[str] = field(default_factory=list)
    _read: dict[int, NDArray[np.int16] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Mapping[str, Any], scans: Storage | None) -> LabelMaps:
        """Those of a subject's row (`sadm_ray.data.shards.subject_row.parse_row`)."""
        grid = SpatialTransform.from_json(row["grid"])
        sizes = grid.voxel_size(row["spacing"].tolist())
        return cls(row["subject"], scans, json.loads(row["sources"]), grid, sizes, row["affine"])

    def at(self, slot: int) -> Int16[np.ndarray, "d h w"] | None:
        """The labels of a slot on the prepared grid; None where there are none, or they cannot be used."""
        if slot not in self._read:
            self._read[slot] = self._look_up(slot)
        return self._read[slot]

    def _look_up(self, slot: int) -> NDArray[np.int16] | None:
        source = self.sources[slot]
        if self.scans is None or source is None or "file" not in source:
            return None
        file = label_file(source["file"], source["frame"])
        try:
            entry = self.scans.entry(file)
        except (OSError, DataError):  # as where there is none: the study is out of reach
            return None
        if entry is None:
            return None
        try:
            return self._on_grid(self.scans, file, entry.size, source.get("moved"))
        except (DataError, ValueError) as error:
            self.problems.append(str(Problem(self.subject, self.scans.where(file), str(error))))
            return None

    def _on_grid(self, scans: Storage, file: str, size: int, moved: Sequence[float] | None) -> NDArray[np.int16]:
        image = read_image(scans, file, size, LIMIT)
        values = image.frame(0)
        with np.errstate(invalid="ignore"):  # values beyond int16 are found to differ below
            labels = values.astype(np.int16)
        if image.count > 1 or not np.array_equal(labels, values):
            raise DataError("no label map: one volume of whole numbers is expected")
        return self.grid.forward_labels(self._on_first(labels, _Grid(file, image.shape, image.affine), moved))

    def _on_first(
        self, labels: NDArray[np.int16], grid: Geometry, moved: Sequence[float] | None
    ) -> Int16[np.ndarray, "d h w"]:
        """On the first visit's grid, as their scan was brought there; as they are where only their header differs."""
        d, h, w = self.grid.source_shape
        first = _Grid("the first visit", (w, h, d), self.affine)
        if moved is not None:
            return place(first, grid, "rigid", np.reshape(moved, (4, 4))).labels(labels)
        try:
            return place(first, grid, "none").labels(labels)
        except DataError:
            return labels


def label_file(file: str, frame: int | None) -> str:
    """ACDC's file name for the labels of a scan; those of a cine have the number (from 1) of the frame in it."""
    suffix = next(suffix for suffix in reversed(IMAGE_SUFFIXES) if file.endswith(suffix))
    stem = file.removesuffix(suffix)
    if frame is not None:
        stem = f"{stem.removesuffix('_4d')}_frame{frame + 1:02d}"
    return f"{stem}_gt{suffix}"
