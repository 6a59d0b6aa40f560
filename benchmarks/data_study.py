"""Shared by the benchmarks of the data: synthetic studies, and a Ray of a known size to prepare them."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from sadm_ray.cluster import QUIET, WORKER_ENVIRONMENT
from sadm_ray.config import Settings
from sadm_ray.config.settings_file import load_settings

ENVIRONMENT = {
    **QUIET,
    **WORKER_ENVIRONMENT,
    "RAY_worker_niceness": "0",  # else other processes take precedence over Ray's workers, but not over a plain loop
}
"""Of every measuring process, so that a plain loop and a worker have the same conditions."""
VISITS = 3
_DIFFERENT = 200  # files with contents of their own; the others are links to them, which are made quickly
_AFFINE = np.diag([1.5, 1.5, 8.0, 1.0])


def write_manifest(folder: Path, subjects: int, shape: Sequence[int]) -> Path:
    """A study of int16 .nii.gz files of `shape` (x y z), three visits a subject; returns its manifest.

    Every scan has a path of its own, but only 200 of them have contents of their own: the others are hard links.
    """
    scans = folder / "scans"
    scans.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(_DIFFERENT):
        voxels = random.integers(0, 1000, shape, dtype=np.int16)
        nib.save(nib.Nifti1Image(voxels, _AFFINE), folder / f"{number}.nii.gz")
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("subject", "path", "time", "session"))
        for number in range(subjects):
            for visit in range(VISITS):
                name = f"s{number:06d}"
                path = f"scans/{name}-{visit}.nii.gz"
                os.link(folder / f"{(number * VISITS + visit) % _DIFFERENT}.nii.gz", folder / path)
                table.writerow((name, path, visit, f"v{visit}"))
    return manifest


def manifest_settings(manifest: Path, shape: Sequence[int]) -> Settings:
    """The settings that prepare such a study on a grid of `shape` (d h w)."""
    data = {"root": manifest, "layout": "manifest", "time_unit": "years", "frames": "null", "shape": list(shape)}
    return load_settings(overrides=[f"data.{key}={value}" for key, value in data.items()])


@contextmanager
def local_ray(cpus: int) -> Iterator[None]:
    """A new Ray on this machine with `cpus` CPUs, set up as `sadm_ray.cluster` does."""
    import ray
    import ray.data

    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=500e6,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
