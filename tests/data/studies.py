"""Prepared studies for the tests, made from arrays instead of scans."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sadm_ray.data.find import Problem, Subject
from sadm_ray.data.normalise.intensity import encode
from sadm_ray.data.normalise.spatial import SpatialTransform
from sadm_ray.data.read.subject_scans import Frame, read_scans
from sadm_ray.data.shards.prepared_study import Study, write_row_locations
from sadm_ray.data.shards.shard_writer import to_parquet
from sadm_ray.data.shards.subject_row import pair_differences, row_checksum
from sadm_ray.storage import Storage

AFFINE = np.diag([1.5, 1.5, 8.0, 1.0])


def made_row(
    name: str,
    frames: np.ndarray,
    present: Sequence[bool] | None = None,
    times: Sequence[float] | None = None,
    *,
    source_shape: tuple[int, int, int] | None = None,
    covariates: Mapping[str, Any] | None = None,
    **columns: Any,
) -> dict[str, Any]:
    """A stored row of frames (t d h w) in [0, 1]."""
    slots, *shape = frames.shape
    data, stored = encode(frames.astype(np.float32), "float16")
    plan = {"shape": shape, "target_spacing": None, "orientation": "native", "crop": "none"}
    transform = SpatialTransform.plan(
        np.zeros(source_shape or tuple(shape), np.float32), AFFINE, (1.5, 1.5, 8.0), **plan
    )
    squares, differences = pair_differences(frames.astype(np.float32))
    row = {
        "subject": name,
        "group": "NOR",
        "frames": data,
        "dtype": "float16",
        "stored": list(stored),
        "shape": shape,
        "present": list(present) if present is not None else [True] * slots,
        "times": [float(time) for time in (times if times is not None else np.linspace(0, 1, slots))],
        "intensity": [10.0, 500.0],
        "grid": transform.to_json(),
        "affine": AFFINE.ravel().tolist(),
        "spacing": [1.5, 1.5, 8.0],
        "sources": json.dumps([None] * slots),
        "covariates": json.dumps(covariates or {"subject": {}, "visits": [{}] * slots}),
        "squares": squares,
        "differences": differences,
        **columns,
    }
    return row | {"key": name, "checksum": row_checksum(row)}


def write_study(folder: Path, rows: Sequence[dict[str, Any]], subjects: Mapping[str, Sequence[str]]) -> Study:
    """A study of these rows in two shards; `subjects` by split."""
    facts = []
    for number, some in enumerate((rows[::2], rows[1::2])):
        shard = f"parts/{number}.parquet"
        Storage(str(folder)).write(shard, to_parquet(some, {}))
        facts += [
            {**{key: row[key] for key in ("subject", "group", "key", "checksum")}, "part": shard, "row": place}
            for place, row in enumerate(some)
        ]
    study = Study(
        location=str(folder),
        digest="digest",
        preparation="preparation",
        content="content",
        frames=None,
        shape=tuple(rows[0]["shape"]),
        time_unit="years",
        subjects={split: tuple(names) for split, names in subjects.items()},
        difference_scale=0.1,
        places=write_row_locations(str(folder), facts),
    )
    study.write()
    return study


def load_frames(subject: Subject, root: Path) -> np.ndarray:
    """All frames of a subject as they are in its files: t d h w."""
    found = list(read_scans(subject, Storage(str(root)), limit=10**9))
    assert not [each for each in found if isinstance(each, Problem)]
    return np.stack([each.volume for each in found if isinstance(each, Frame)])


def made_together(
    name: str,
    frames: np.ndarray,
    has_channel: np.ndarray,
    names: Sequence[str],
    intensity: Sequence[tuple[float, float]],
    **columns: Any,
) -> dict[str, Any]:
    """A stored row of several contrasts: frames (t c d h w), and which each slot has (t c)."""
    frames = np.where(has_channel[..., None, None, None], frames, 0.0).astype(np.float32)
    row = made_row(name, frames[:, 0], has_channel.any(axis=1).tolist(), **columns)
    together = {"names": list(names), "present": has_channel.tolist(), "intensity": [list(pair) for pair in intensity]}
    row |= {"frames": encode(frames, "float16")[0], "contrasts": json.dumps(together)}
    return row | {"checksum": row_checksum(row)}
