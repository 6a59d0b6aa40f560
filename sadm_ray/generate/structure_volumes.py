"""The volumes of structures in generated samples and observed scans: a table, and its intervals.

A row a structure of a sample, or of an observed label map. So whatever is derived from volumes (a fraction, a rate of
change) can be derived from each sample, and has an interval, too.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from sadm_ray.generate.moved_structures import MovedStructures
from sadm_ray.generate.volume_corrections import NOT_CORRECTED, VolumeCorrection
from sadm_ray.generate.volume_writer import shown_time
from sadm_ray.storage import Storage

if TYPE_CHECKING:
    import pandas as pd

VOLUMES = "volumes.csv"
"""The name of the table, and of its summary."""
SUMMARY = "volumes-summary.csv"

Origin = Literal["observed", "generated"]
_KEYS = ["subject", "task", "frame", "time", "structure", "origin"]
_SIZES = ["ml", "voxels"]
VOLUMES_COLUMNS = [*_KEYS, "sample", *_SIZES]
NUMBERS = ("estimate", "median", "low", "high", "corrected_low", "corrected_high")
SUMMARY_COLUMNS = [
    *_KEYS, "samples", *(f"{name}_{size}" for size in _SIZES for name in NUMBERS), "level", "held_out",
    "fitted_for",
]  # fmt: skip
Corrections = Mapping[tuple[str, str, str], VolumeCorrection]
"""By subject, task and structure."""


def structures_json(
    moved: MovedStructures,
    times: Float[np.ndarray, " t"],
    level: float,
    corrections: Mapping[str, VolumeCorrection],
) -> str:
    """What a record keeps of a frame's structures, from which `record_rows` makes the rows of the table.

    Args:
        times: of the subject's slots.
        level: of the intervals.
        corrections: of each structure.
    """
    observed = moved.observed
    seen = {slot: shares.sum(axis=(1, 2, 3), dtype=np.float64).tolist() for slot, shares in observed.shares.items()}
    return json.dumps({
        "labels": dict(observed.values),
        "own_voxels": observed.own_voxels,
        "voxel_ml": observed.voxel_ml,
        "level": level,
        "corrections": corrections,
        "voxels": moved.voxels.tolist(),  # of the estimate, then of each sample
        "observed": [{"frame": slot, "time": float(times[slot]), "voxels": each} for slot, each in seen.items()],
    })  # fmt: skip


def record_rows(frames: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of the table (`VOLUMES_COLUMNS`) of the frames of one subject's record; what is observed once a task."""
    told: set[tuple[str, int]] = set()
    for frame in frames:
        if not frame.get("structures"):
            continue
        kept = json.loads(frame["structures"])
        sizes = {"voxel_ml": kept["voxel_ml"], "own_voxels": kept["own_voxels"]}
        for seen in kept["observed"]:
            if (frame["task"], seen["frame"]) not in told:
                told.add((frame["task"], seen["frame"]))
                about = {"subject": frame["subject"], "task": frame["task"], **seen}
                yield from volume_rows(np.array([seen["voxels"]]), list(kept["labels"]), about, "observed", **sizes)
        yield from volume_rows(np.array(kept["voxels"]), list(kept["labels"]), frame, "generated", **sizes)


def kept_corrections(frames: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str, str], VolumeCorrection]]:
    """The corrections in the frames of one subject's record, as `Corrections` has them."""
    for frame in frames:
        if frame.get("structures"):
            kept = json.loads(frame["structures"]).get("corrections", {})
            yield from (((frame["subject"], frame["task"], name), VolumeCorrection(*its)) for name, its in kept.items())


def volume_rows(
    voxels: Float[np.ndarray, "n s"],
    structures: Sequence[str],
    about: Mapping[str, Any],
    origin: Origin,
    *,
    voxel_ml: float | None,
    own_voxels: float,
) -> Iterator[dict[str, Any]]:
    """The rows of one frame (`VOLUMES_COLUMNS`): a row a structure of the estimate, `sample` 0, and of each sample.

    Args:
        voxels: the volume of each structure in voxels of the prepared grid (`model.moved_labels.share_voxels`): of the
            estimate, then of each sample; of an observed label map one row.
        about: `subject`, `task`, `frame` (None where it has no slot) and `time`.
        voxel_ml: of a voxel of the prepared grid; None where voxel sizes are not known (`LabelMaps.spacing_known`),
            and there are no ml.
        own_voxels: how many voxels of the subject's own grid are one of the prepared grid (`LabelMaps.own_voxels`).

    Raises:
        ValueError: there are more or fewer structures than volumes, or several samples of what is observed.
    """
    if origin == "observed" and len(voxels) != 1:
        raise ValueError(f"what is observed has one volume, not {len(voxels)}")
    key = {name: about[name] for name in ("subject", "task", "frame")} | {"time": shown_time(about["time"])}
    for number, sizes in enumerate(voxels.tolist()):
        for structure, size in zip(structures, sizes, strict=True):
            ml = math.nan if voxel_ml is None else size * voxel_ml
            named = {"structure": structure, "origin": origin, "sample": number}
            yield key | named | {"ml": ml, "voxels": size * own_voxels}


def summarise_volumes(volumes: pd.DataFrame, level: float, corrections: Corrections | None = None) -> pd.DataFrame:
    """A row a (subject, task, frame, structure): the estimate, median and interval of the samples (`SUMMARY_COLUMNS`).

    The central prediction interval is mean ± t s √(1 + 1/S), with t of Student's distribution with S − 1 degrees of
    freedom, as in `sadm_ray.evaluate.calibration`: for a volume and S samples from one normal distribution it holds the
    volume with the probability `level`. It ends at 0. One sample has none. Of what is observed, `estimate` is the
    volume. The corrected interval is that multiplied by the factor of the correction, `held_out` of how many subjects
    that is and `fitted_for` of which task; NaN where they are too few, or the model is not calibrated (0 subjects).

    Args:
        volumes: `VOLUMES_COLUMNS`.
        level: between 0 and 1.

    Raises:
        ValueError: the level is none.
    """
    import pandas as pd

    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it lies between 0 and 1")
    rows = []
    for key, every in volumes.groupby(_KEYS, dropna=False, sort=False):
        estimate, samples = every[every["sample"] == 0], every[every["sample"] > 0]
        found = dict(zip(_KEYS, key, strict=True)) | {"samples": len(samples), "level": level}
        subject, task, structure = (str(found[name]) for name in ("subject", "task", "structure"))
        correction = (corrections or {}).get((subject, task, structure), NOT_CORRECTED)
        for name in _SIZES:
            values = samples[name].to_numpy(float)
            ends = *interval(values, level), *interval(values, level, correction.factor)
            numbers = float(estimate[name].iloc[0]), float(samples[name].median()), *ends
            found |= {f"{number}_{name}": value for number, value in zip(NUMBERS, numbers, strict=True)}
        found["fitted_for"] = correction.fitted_for if len(samples) > 1 else None
        rows.append(found | {"held_out": correction.subjects if len(samples) > 1 else None})
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS).astype({"held_out": "Int64"})


def interval(
    samples: Float[np.ndarray, " n"], level: float, factor: float | None = 1.0, least: float = 0.0
) -> tuple[float, float]:
    """The central prediction interval of values that are `least` at least, times a factor (`summarise_volumes`).

    NaN of one sample, and without a factor.
    """
    count = len(samples)
    if count < 2 or factor is None:
        return math.nan, math.nan
    half = factor * float(stdtrit(count - 1, 0.5 + 0.5 * level)) * float(samples.std(ddof=1)) * math.sqrt(1 + 1 / count)
    middle = float(samples.mean())
    return (max(middle - half, least) if math.isfinite(middle) else math.nan), middle + half


def volumes_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table with the columns `VOLUMES_COLUMNS`."""
    import pandas as pd

    return pd.DataFrame(rows, columns=VOLUMES_COLUMNS).astype({"frame": "Int64"})


def write_table(out: Storage, name: str, table: pd.DataFrame) -> None:
    """Write a table as CSV, which appears whole; an empty one is no file."""
    if table.empty:
        out.delete(name)
        return
    sink = io.StringIO()
    table.to_csv(sink, index=False)
    out.write(name, sink.getvalue().encode())
