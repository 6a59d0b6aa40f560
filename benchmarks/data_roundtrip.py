"""What a volume loses on the way to a shard and back, on real scans.

The steps are those of the product: read, brought to the grid, normalised and encoded, a row of Parquet, decoded,
brought back and denormalised. The result is compared with what nibabel reads from the file, in float32. On the
subject's own grid only the rounding to float16 is lost; on the model's grid, whose PSNR has no target, the resampling
adds its loss.
PSNR is over the range of the subject's first frame; the worst frame of all subjects counts.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq

from benchmarks.figures import say
from sadm_ray.config import DataSettings
from sadm_ray.data.find import Subject, find_subjects
from sadm_ray.data.normalise.intensity import denormalise
from sadm_ray.data.normalise.spatial import SpatialTransform
from sadm_ray.data.read.nifti_io import nifti_bytes
from sadm_ray.data.shards.shard_writer import to_parquet
from sadm_ray.data.shards.subject_row import parse_row, prepare_subject
from sadm_ray.storage import Storage

_SUBJECTS = 6  # of a folder
_TARGET = 60  # dB


@dataclass(frozen=True)
class Study:
    """A folder of real scans: how it is read, and the model's grid that its kind is configured with."""

    name: str
    data_settings: Mapping[str, Any]
    grid: Mapping[str, Any]
    orientations: Sequence[str] = ("native",)


_HEART = {"shape": (8, 64, 64)}
_BRAIN = {"shape": (64, 64, 64), "orientation": "canonical"}
_BOTH = ("native", "canonical")
_PIG = "pig_cine_cc0"
STUDIES = (
    Study("acdc", {}, _HEART),
    Study("acdc_native_edes", {}, _HEART),
    Study(_PIG, {"layout": "manifest"}, _HEART),
    Study("brain_growth_bids", {"layout": "bids", "suffix": "T2w"}, _BRAIN, _BOTH),
    Study("ms_two_visits_bids", {"layout": "bids", "suffix": "FLAIR", "time_column": "order"}, _BRAIN, _BOTH),
)


def round_trip(real_data: Path) -> None:
    """The worst PSNR of every folder and orientation, and whether written volumes keep the affine of their source."""
    for study in STUDIES:
        with tempfile.TemporaryDirectory() as folder:
            root = _root(real_data, study.name, Path(folder))
            settings = DataSettings(**study.data_settings, frames=None)
            catalog = find_subjects(root, settings)
            storage, subjects = Storage(catalog.folder), catalog.subjects
            subjects = subjects[:: -(-len(subjects) // _SUBJECTS)]  # spread over the names: kinds of files go by name
            kept = []
            for orientation in study.orientations:
                psnr = []
                for subject in subjects:
                    own = {"orientation": orientation, "shape": _own_shape(subject, storage, orientation)}
                    row = _stored(subject, storage, settings.model_copy(update=own))
                    psnr.append(_worst_psnr(row, storage))
                    kept.append(_keeps_affine(row, storage, Path(folder)))
                say(f"{study.name}: round trip on the {orientation} grid", min(psnr), "dB", "higher", _TARGET)
            say(f"{study.name}: written volumes with the source's affine", float(np.mean(kept)), "1", "higher", 1)
            on_grid = settings.model_copy(update=study.grid)
            worst = min(_worst_psnr(_stored(subject, storage, on_grid), storage) for subject in subjects)
            grid = " × ".join(map(str, on_grid.shape))
            say(f"{study.name}: round trip on the configured grid, {grid}", worst, "dB", "higher")


def _root(real_data: Path, name: str, folder: Path) -> str:
    """The study's folder; for the cine, which has no table, a manifest in `folder`."""
    if name != _PIG:
        return str(real_data / name)
    manifest = folder / "manifest.csv"
    [cine] = (real_data / name).absolute().glob("*.nii.gz")
    manifest.write_text(f"subject,path\npig,{cine}\n", encoding="utf-8")
    return str(manifest)


def _own_shape(subject: Subject, storage: Storage, orientation: str) -> tuple[int, ...]:
    """(d h w) of the subject's scans, turned as its volumes are."""
    image = nib.load(storage.where(subject.scans[0].file))
    turned = nib.as_closest_canonical(image) if orientation == "canonical" else image
    return tuple(map(int, turned.shape[2::-1]))


def _stored(subject: Subject, storage: Storage, settings: DataSettings) -> dict[str, Any]:
    """A subject's row as it is read from a shard."""
    prepared = prepare_subject(subject, storage, settings)
    assert prepared.row is not None, prepared.problems
    return parse_row(pq.read_table(to_parquet([prepared.row], {})).to_pylist()[0])


def _worst_psnr(row: Mapping[str, Any], storage: Storage) -> float:
    """dB, of the worst frame."""
    transform, squares = SpatialTransform.from_json(row["grid"]), []
    span = 0.0
    for frame, source in zip(row["frames"], json.loads(row["sources"]), strict=True):
        original = _original(storage.where(source["file"]), source["frame"])
        span = span or float(np.ptp(original))
        restored = denormalise(transform.inverse(frame[0], outside=0.0), row["intensity"])
        squares.append(np.square(restored - original, dtype=np.float64).mean())
    return 10 * math.log10(span**2 / max(squares))


def _original(file: str, frame: int | None) -> np.ndarray:
    voxels = nib.load(file).dataobj
    return np.asarray(voxels if frame is None else voxels[..., frame], dtype=np.float32).T


def _keeps_affine(row: Mapping[str, Any], storage: Storage, folder: Path) -> bool:
    """Whether nibabel reads the source's affine from a volume that was written for this subject."""
    transform, source = SpatialTransform.from_json(row["grid"]), json.loads(row["sources"])[0]
    file = folder / "written.nii.gz"
    file.write_bytes(nifti_bytes(transform.inverse(row["frames"][0, 0], outside=0.0), row["affine"], row["spacing"]))
    return np.array_equal(nib.load(file).affine, nib.load(storage.where(source["file"])).affine)
