"""The label maps of a prepared subject, brought to the grid of its volumes, and back.

They are looked up where the scans were when the study was prepared, and only when they are needed: shards do not hold
them, and no model sees them. Where the scans of an ACDC study or of a manifest are no longer there (or are named
relative to another folder than this) there are no labels, which is not reported: scores of structures are an addition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from sadm_ray.data.find.catalog import Problem
from sadm_ray.data.find.label_files import LabelFile, LabelFiles, find_labels
from sadm_ray.data.normalise.spatial import SpatialTransform
from sadm_ray.data.read.label_reader import Labelled, read_label_map
from sadm_ray.data.read.scan_checks import spacing_warning
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.errors import DataError

_RESET = "spacing looks reset to 1 mm, so that volumes are in voxels and there are no distances"


def labels_of(study: Study) -> LabelFiles | None:
    """The label maps of a study; None where it is not known where its scans were.

    A relative folder is resolved in this process, so call this before the work is distributed.
    """
    known = study.settings
    root = study.scans or known.get("root")
    if not root:
        return None
    suffix = known.get("suffix", ())
    contrasts = (suffix,) if isinstance(suffix, str) else tuple(suffix)
    return find_labels(root, known["layout"], known.get("labels"), contrasts)


@dataclass(frozen=True)
class _Grid:
    """As `sadm_ray.data.read.scan_checks.Geometry`."""

    file: str
    shape: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]


@dataclass(frozen=True, eq=False)
class PreparedLabels(Labelled):
    """Labels on the prepared grid.

    `volumes` of the structures are in voxels of the subject's own grid, as far as the prepared grid reaches: they are
    counted, or summed over shares, before each voxel gets one label, which may be off by some per cent.
    """

    volumes: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Shares:
    """How much of each voxel of the prepared grid each structure of a label map fills.

    `structures` are their names, `values` the label of each (the least of several).
    """

    structures: tuple[str, ...]
    values: tuple[int, ...]
    shares: Float32[np.ndarray, "s d h w"]


@dataclass
class LabelMaps:
    """The label maps of one subject, each read when it is first needed.

    Attributes:
        files: those of the study; None: none are known.
        sources: a slot each, the file and frame that it holds (`sadm_ray.data.shards.subject_row.ROW_SCHEMA`).
        voxel_mm: size of a voxel of the prepared grid along d h w.
        own_voxels: how many voxels of the first visit's own grid are one of the prepared grid.
        own_voxel_ml: of a voxel of the first visit's own grid; None where the sizes of voxels look reset to 1 mm: what
            is in mm or ml is then not to be believed, and volumes are in voxels.
        affine: of the first visit's own grid, (x, y, z) to mm.
        problems: a line for each label map that cannot be used.
        remarks: a line for what is odd about those that are used.
    """

    subject: str
    files: LabelFiles | None
    sources: Sequence[Mapping[str, Any] | None]
    grid: SpatialTransform
    voxel_mm: tuple[float, float, float]
    own_voxels: float
    own_voxel_ml: float | None
    affine: Float[np.ndarray, "4 4"]
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    _read: dict[int, Labelled | None] = field(default_factory=dict)
    """On the first visit's own grid."""

    @classmethod
    def of(cls, row: Mapping[str, Any], files: LabelFiles | None) -> LabelMaps:
        """Those of a subject's row (`sadm_ray.data.shards.subject_row.parse_row`)."""
        grid, spacing = SpatialTransform.from_json(row["grid"]), row["spacing"].tolist()
        sizes = grid.voxel_size(spacing)
        own_mm3 = float(np.prod(spacing))
        own_ml = None if spacing_warning(spacing, grid.source_shape[::-1]) else own_mm3 / 1000
        own_voxels = float(np.prod(sizes)) / own_mm3
        sources = json.loads(row["sources"])
        return cls(row["subject"], files, sources, grid, sizes, own_voxels, own_ml, row["affine"])

    @property
    def spacing_known(self) -> bool:
        """Whether mm and ml may be given."""
        return self.own_voxel_ml is not None

    @property
    def is_acdc(self) -> bool:
        """Whether they are those of hearts in ACDC, whose ventricles are measured."""
        return self.files is not None and self.files.layout == "acdc"

    def at(self, slot: int) -> PreparedLabels | None:
        """The labels of a slot on the prepared grid; None where there are none, or they cannot be used."""
        own = self._own(slot)
        if own is None:
            return None
        volumes = Labelled(self.grid.seen(own.labels), own.names).counts()
        return PreparedLabels(self.grid.forward_labels(own.labels), own.names, volumes)

    def shares_at(self, slot: int) -> Shares | None:
        """The shares of the structures that a slot's label map has voxels of, for moving them; None as with `at`."""
        own = self._own(slot)
        if own is None:
            return None
        found = [name for name, count in own.counts().items() if count]
        values = {name: value for value, name in sorted(own.names.items(), reverse=True)}
        shares = np.zeros((len(found), *self.grid.shape), dtype=np.float32)
        for share, name in zip(shares, found, strict=True):
            share[:] = self.grid.forward_share(own.mask(name))
        return Shares(tuple(found), tuple(values[name] for name in found), shares)

    def _own(self, slot: int) -> Labelled | None:
        if slot not in self._read:
            self._read[slot] = self._look_up(slot)
        return self._read[slot]

    def _look_up(self, slot: int) -> Labelled | None:
        source = self.sources[slot]
        if self.files is None or source is None or "file" not in source:
            return None
        file = None
        try:
            file = self.files.of(source["file"], source["frame"])
            return None if file is None else self._on_first(self.files, file, source)
        except (DataError, ValueError) as error:
            where = self.files.storage.where(source["file"] if file is None else file.file)
            self.problems.append(str(Problem(self.subject, where, str(error))))
            return None

    def _on_first(self, files: LabelFiles, file: LabelFile, source: Mapping[str, Any]) -> Labelled:
        read = read_label_map(files.storage, file, source["frame"])
        d, h, w = self.grid.source_shape
        first = _Grid("the first visit", (w, h, d), np.asarray(self.affine, dtype=np.float64))
        own = read.on(first, source.get("moved"))
        if unknown := read.unknown():
            named = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
            self._remark(files, file, f"has the values {named}, which no table names; they are not scored")
        if not self.spacing_known and not any(_RESET in line for line in self.remarks):
            self._remark(files, file, f"its scan's {_RESET}; correct pixdim and affine")
        return own

    def _remark(self, files: LabelFiles, file: LabelFile, message: str) -> None:
        self.remarks.append(str(Problem(self.subject, files.storage.where(file.file), message, fatal=False)))
