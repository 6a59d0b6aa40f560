"""Patient folders for the tests, good ones and broken ones."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE = np.array([[0.0, -1.5, 0.2, 10], [1.4, 0.0, 0.5, -20.5], [0.1, 0.3, 8.0, 3], [0, 0, 0, 1]], dtype=np.float32)


def write_cine(
    root: Path, name: str, voxels: np.ndarray | None = None, *, ed: object = 1, es: object = 6, group: str = "NOR"
) -> Path:
    """A patient with a 4D file (x, y, z, t) and its `Info.cfg`; returns the 4D file."""
    folder = root / name
    folder.mkdir(parents=True)
    if voxels is None:
        voxels = np.random.default_rng(len(name)).integers(0, 900, (10, 9, 4, 8)).astype(np.int16)
    path = folder / f"{name}_4d.nii.gz"
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    write_info(folder, ed=ed, es=es, group=group)
    return path


def write_single_frames(root: Path, name: str, frames: dict[int, np.ndarray], *, ed: int, es: int) -> Path:
    """A patient with a file a frame, each with a label map beside it; returns the folder."""
    folder = root / name
    folder.mkdir(parents=True)
    for number, voxels in frames.items():
        nib.save(nib.Nifti1Image(voxels, AFFINE), folder / f"{name}_frame{number:02d}.nii.gz")
        labels = np.zeros(voxels.shape, np.uint8)
        nib.save(nib.Nifti1Image(labels, AFFINE), folder / f"{name}_frame{number:02d}_gt.nii.gz")
    write_info(folder, ed=ed, es=es, group="DCM")
    return folder


def write_info(folder: Path, *, ed: object, es: object, group: str) -> None:
    (folder / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: {group}\nNbFrame: 8\n", encoding="utf-8")
