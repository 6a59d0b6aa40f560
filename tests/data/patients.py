"""Studies for the tests, good ones and broken ones: patient folders and BIDS."""

from __future__ import annotations

from collections.abc import Mapping
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


def write_scan(path: Path, shape: tuple[int, ...] = (6, 5, 4)) -> Path:
    """A small volume (x, y, z) of noise, the same for the same name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.name.encode())).random(shape)
    nib.save(nib.Nifti1Image(noise.astype(np.float32), AFFINE), path)
    return path


def write_table(path: Path, text: str) -> Path:
    """A table from its text, in which spaces between fields may stand for the tabs of a .tsv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(line.split()) if path.suffix == ".tsv" else line.strip() for line in text.strip().splitlines()]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_bids(
    root: Path, visits: Mapping[str, Mapping[str, object]], *, column: str = "age_weeks", suffix: str = "T1w"
) -> Path:
    """A BIDS study from {subject: {session: time}}, with a sessions.tsv each; returns `root`."""
    for subject, times in visits.items():
        for session in times:
            scan_of(root, subject, session, suffix)
        rows = "".join(f"\nses-{session} {time}" for session, time in times.items())
        write_table(root / f"sub-{subject}" / f"sub-{subject}_sessions.tsv", f"session_id {column}{rows}")
    return root


def scan_of(root: Path, subject: str, session: str, ending: str) -> Path:
    """A scan of a BIDS study; `ending` is its suffix and what goes before, such as `run-1_T1w`."""
    name = f"sub-{subject}_ses-{session}_{ending}.nii.gz"
    return write_scan(root / f"sub-{subject}" / f"ses-{session}" / "anat" / name)
