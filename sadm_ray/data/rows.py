"""One subject as a row of a shard: what the columns are called, what they hold, and how a subject becomes one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from sadm_ray.data.catalog import Subject
from sadm_ray.data.preprocess import normalise, to_grid
from sadm_ray.data.slots import ABSENT, assign_slots, slot_times
from sadm_ray.data.volume import load_frames

ROW_TEXTS = ("subject", "group", "source", "error")


def prepare_subject(subject: Subject, shape: tuple[int, int, int], slots: int) -> dict[str, Any]:
    """Read, resample, normalise and slot one subject: a row of a shard.

    Returns:
        The texts of `ROW_TEXTS` and the arrays of `row_arrays`; absent slots are zeros. `source` is JSON, the file and
        frame (from 0) of every slot; `error` is empty. `squares` and `differences` are the sum and the number of the
        squared voxel differences over all pairs of present frames.

    Raises:
        DataError: the files cannot be used.
    """
    scans = load_frames(subject)
    sources = assign_slots(len(scans), slots)
    present = sources != ABSENT
    volumes, intensity = normalise(to_grid(scans[sources[present]], shape))
    frames = np.zeros((slots, 1, *shape), dtype=np.float16)
    frames[present, 0] = volumes
    taken = [subject.frames[source] if source != ABSENT else None for source in sources]
    count = len(volumes)
    # Σ_{i<j} (x_j − x_i)² = n Σ x² − (Σ x)², in float64 since the two are close.
    exact = volumes.astype(np.float64)
    squares = count * np.sum(exact**2) - np.sum(exact.sum(axis=0) ** 2)
    return {
        "subject": subject.name,
        "group": subject.group,
        "source": json.dumps([{"file": str(frame.path), "frame": frame.index} if frame else None for frame in taken]),
        "error": "",
        "frames": frames,
        "present": present,
        "times": slot_times(sources, [frame.time for frame in subject.frames]),
        "affine": np.array(subject.affine, dtype=np.float64),
        "spacing": np.array(subject.spacing, dtype=np.float64),
        "source_shape": np.array(scans.shape[1:], dtype=np.int64),
        "intensity": np.array(intensity, dtype=np.float64),
        "squares": np.array([squares], dtype=np.float64),
        "differences": np.array([count * (count - 1) // 2 * volumes[0].size], dtype=np.int64),
    }


def row_arrays(slots: int, shape: tuple[int, int, int]) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    """Type and shape of every array of a row; `affine` and `spacing` are in (x, y, z), all else in (d, h, w)."""
    return {
        "frames": (np.float16, (slots, 1, *shape)),
        "present": (np.bool_, (slots,)),
        "times": (np.float32, (slots,)),
        "affine": (np.float64, (4, 4)),
        "spacing": (np.float64, (3,)),
        "source_shape": (np.int64, (3,)),
        "intensity": (np.float64, (2,)),
        "squares": (np.float64, (1,)),
        "differences": (np.int64, (1,)),
    }
