"""What the viewer shows of a subject: the volumes of a task's frames as NIfTI of 8 bits, in memory.

One file a quantity, with the target frames along its fourth axis. NIfTI's own `scl_slope` and `scl_inter` turn the
stored numbers back into intensities, so that other programs read the same values.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from sadm_ray.data.normalise.spatial import SpatialTransform
from sadm_ray.data.shards.prepared_study import Study, read_subject
from sadm_ray.errors import DataError
from sadm_ray.evaluate import naive_baselines
from sadm_ray.evaluate.metrics import CHANGE_THRESHOLD
from sadm_ray.evaluate.prediction import Prediction, Truth
from sadm_ray.generate.generation_record import read_predictions
from sadm_ray.storage import Storage

TRUTH, SPREAD, PROBABILITY = "truth", "spread", "probability"
MEMBERS = 3
"""Samples that can be flicked through."""
SHOWN = ("estimate", *(f"sample-{number}" for number in range(1, MEMBERS + 1)), "mean", "copy-last")
"""What the viewer can show as generated; each has its difference from the truth, `difference-…`."""

_LEAST_TOP = 0.02
_TAIL = 99.5  # percentile at the end of a colour scale: one stray voxel must not make all others pale
_COLUMNS = ["contrast", "frame", "observed", "estimate", "samples", "shape", "error"]
_SHORTEST = 16  # voxels of an axis that is not halved any more

Frames = Float32[np.ndarray, "t d h w"]


@dataclass(frozen=True)
class Volumes:
    """The target frames of one subject in one task, those with a true scan, in the order of time.

    Attributes:
        frames, times: the slots, and when they were acquired, in the study's unit.
        quantities: `truth`, those of `SHOWN` that there are (the mean only without an estimate); of several samples
            `spread`, their standard deviation, and `probability`, the part of them that differs from copy-last by more
            than `CHANGE_THRESHOLD`; in [0, 1].
        spacing: size of a voxel of these volumes along (x, y, z), mm.
        samples: how many volumes were drawn of each frame.
        halvings: how often the long axes were halved.
    """

    frames: Sequence[int]
    times: Sequence[float]
    quantities: Mapping[str, Frames]
    spacing: tuple[float, float, float]
    samples: int
    halvings: int = 0

    def halved(self) -> Volumes:
        """Blocks of two voxels averaged along every axis of more than 16; the same object where none is so long."""
        steps = [2 if size > _SHORTEST else 1 for size in self.quantities[TRUTH].shape[1:]]
        if max(steps) == 1:
            return self
        x, y, z = self.spacing
        return replace(
            self,
            quantities={name: _block_means(volumes, steps) for name, volumes in self.quantities.items()},
            spacing=(x * steps[2], y * steps[1], z * steps[0]),
            halvings=self.halvings + 1,
        )


@dataclass(frozen=True)
class Encoded:
    """NIfTI files (.nii.gz) by quantity, and where the colours of differences (±) and of the spread end."""

    files: Mapping[str, bytes]
    difference_top: float
    spread_top: float

    @property
    def size(self) -> int:
        """Bytes in the page, where they are base64."""
        return sum(4 * ((len(content) + 2) // 3) for content in self.files.values())


def read_volumes(study: Study, predictions: Path | str, subject: str, task: str) -> Volumes:
    """Read a subject's predictions of a task (`sadm_ray.generate.generation_record`) and the truth.

    Args:
        task: as in the tables, with the contrast behind it where there are several.

    Raises:
        DataError: there are none, or none of a frame with a true scan.
    """
    storage, name = Storage(str(predictions)), f"{subject}.parquet"
    file = storage.where(name)
    if storage.entry(name) is None:
        raise DataError(f"{file}: missing")
    task_name, _, contrast = task.partition(" ")
    truth, row = Truth.read(study, subject, contrast=contrast), read_subject(study, subject)
    d, h, w = SpatialTransform.from_json(row["grid"]).voxel_size(row["spacing"].tolist())
    rows = read_predictions(file, columns=_COLUMNS, filters=[("task", "==", task_name)]).to_pylist()
    rows = [each for each in rows if (each["contrast"] or "") == contrast]
    found = [Prediction.read(each, truth) for each in rows if not each["error"] and truth.can_score(each)]
    if not found:
        raise DataError(f"{file}: no frame of '{task}' that was generated and scanned")
    found.sort(key=lambda predicted: truth.times[predicted.target])
    targets = [predicted.target for predicted in found]
    draws = np.stack([predicted.samples for predicted in found])  # t s d h w
    copied = [naive_baselines.copy_last(truth.frames, each.observed, truth.times, each.target) for each in found]
    quantities = {TRUTH: truth.frames[targets], "copy-last": np.stack(copied)}
    quantities |= {f"sample-{number + 1}": draws[:, number] for number in range(min(draws.shape[1], MEMBERS))}
    estimates = [each.estimate for each in found if each.estimate is not None]
    if len(estimates) == len(found):
        quantities["estimate"] = np.stack(estimates)
    elif draws.shape[1] > 1:
        quantities["mean"] = draws.mean(axis=1)
    if draws.shape[1] > 1:
        quantities[SPREAD] = draws.std(axis=1)
        changed = np.abs(draws - quantities["copy-last"][:, None]) > CHANGE_THRESHOLD
        quantities[PROBABILITY] = changed.mean(axis=1, dtype=np.float32)
    return Volumes(
        frames=targets,
        times=[float(truth.times[target]) for target in targets],
        quantities=quantities,
        spacing=(w, h, d),
        samples=draws.shape[1],
    )


def encode(volumes: Volumes) -> Encoded:
    """All quantities and the differences as NIfTI of 8 bits: intensities in steps of 1/255, the others of their own."""
    truth = volumes.quantities[TRUTH]
    shown = {name: volumes.quantities[name] for name in SHOWN if name in volumes.quantities}
    differences = {f"difference-{name}": frames - truth for name, frames in shown.items()}
    widest = max(_LEAST_TOP, max(float(np.abs(difference).max()) for difference in differences.values()))
    top = max(_LEAST_TOP, max(float(np.percentile(np.abs(found), _TAIL)) for found in differences.values()))
    # 128 is exactly no difference.
    step = widest / 127
    files = {
        name: _nifti(np.rint(found / step) + 128, step, -128 * step, volumes.spacing, (-top, top))
        for name, found in differences.items()
    }
    likely = {PROBABILITY: volumes.quantities[PROBABILITY]} if PROBABILITY in volumes.quantities else {}
    for name, frames in {TRUTH: truth, **shown, **likely}.items():
        files[name] = _nifti(np.rint(frames.clip(0, 1) * 255), 1 / 255, 0.0, volumes.spacing, (0.0, 1.0))
    spread_top = _LEAST_TOP
    if SPREAD in volumes.quantities:
        spread = volumes.quantities[SPREAD]
        spread_top = max(_LEAST_TOP, float(np.percentile(spread, _TAIL)))
        step = max(_LEAST_TOP, float(spread.max())) / 255
        files[SPREAD] = _nifti(np.rint(spread / step), step, 0.0, volumes.spacing, (0.0, spread_top))
    return Encoded(files, difference_top=top, spread_top=spread_top)


def _nifti(
    stored: Float[np.ndarray, "t d h w"],
    slope: float,
    inter: float,
    spacing: tuple[float, float, float],
    window: tuple[float, float],
) -> bytes:
    """Stored numbers as .nii.gz, `window` being the intensities between which a viewer should stretch its colours.

    y runs downwards, as rows of a picture do: the first row is the uppermost in the viewer as in the report's pictures.
    """
    import nibabel as nib

    x, y, z = spacing
    numbers: UInt8[np.ndarray, "x y z t"] = stored.astype(np.uint8).T
    image = nib.Nifti1Image(numbers, np.diag([x, -y, z, 1.0]))
    image.header.set_slope_inter(slope, inter)
    image.header["cal_min"], image.header["cal_max"] = window
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


def _block_means(volumes: Frames, steps: Sequence[int]) -> Frames:
    """The means of blocks of `steps` voxels along d h w; a last block that would be short is filled up by its edge."""
    (d, h, w), (a, b, c) = volumes.shape[1:], steps
    filled = np.pad(volumes, [(0, 0), (0, -d % a), (0, -h % b), (0, -w % c)], mode="edge")
    t, d, h, w = filled.shape
    return filled.reshape(t, d // a, a, h // b, b, w // c, c).mean(axis=(2, 4, 6))
