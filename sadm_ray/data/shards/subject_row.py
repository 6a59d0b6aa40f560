"""One subject as a row of a shard: the columns, and how scans become a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from sadm_ray.config import DataSettings
from sadm_ray.data.find.catalog import Problem, Subject
from sadm_ray.data.normalise.intensity import decode, encode
from sadm_ray.data.normalise.spatial import SpatialTransform
from sadm_ray.data.normalise.time_slots import ABSENT, assign_slots, slot_times
from sadm_ray.data.read.subject_scans import Frame, ScanFacts, read_scans
from sadm_ray.data.read.visit_comparison import VisitComparison
from sadm_ray.data.shards.row_contrasts import (
    ScaledContrast,
    contrasts_json,
    fill_slots,
    group_visits,
    scale_contrast,
    scans_in,
    sources_of,
)
from sadm_ray.storage import Storage

SCHEMA_VERSION = 2

ROW_SCHEMA = pa.schema(
    {
        "subject": pa.string(),
        "group": pa.string(),
        "frames": pa.large_binary(),  # (t, d, h, w), of several contrasts (t, c, d, h, w); C order, little-endian
        "dtype": pa.string(),  # of `frames`
        "stored": pa.list_(pa.float64(), 2),  # what 0 and the largest stored value stand for, of integer types
        "shape": pa.list_(pa.int32(), 3),  # d h w
        "present": pa.list_(pa.bool_()),  # t: which slots hold a scan, of any contrast
        "times": pa.list_(pa.float64()),  # t, in the study's unit; float32 in older shards, which `read_row` widens
        "intensity": pa.list_(pa.float64(), 2),  # what 0 and 1 stand for, in the units of the scanner
        "grid": pa.string(),  # JSON of `SpatialTransform`: between the subject's own grid and the model's
        "affine": pa.list_(pa.float64(), 16),  # of the subject's own grid, (x, y, z) to mm
        "spacing": pa.list_(pa.float64(), 3),  # x y z, mm
        "header": pa.string(),  # JSON of `StoredGeometry`, of the first scan; null in rows of earlier versions
        "sources": pa.string(),  # JSON, a slot each, null where it is absent: `sources_of`; lists of several contrasts
        "covariates": pa.string(),  # JSON: {"subject": {…}, "visits": [{…}, …]}
        "squares": pa.float64(),  # sum and number of the squared voxel differences over all pairs of scans
        "differences": pa.int64(),
        "key": pa.string(),  # a hash of what it was made from, see `row_key`
        "checksum": pa.string(),  # SHA-256 of the other columns but `key`, see `row_checksum`
    }
)
TOGETHER = pa.field("contrasts", pa.string())
"""A column more of rows with several contrasts, JSON: `names`, `present` (t c) and the `intensity` of each one."""


@dataclass(frozen=True)
class Prepared:
    """A prepared subject: its row (none: it is left out) and its problems."""

    row: dict[str, Any] | None
    problems: tuple[Problem, ...]


def row_key(subject: Subject, settings: DataSettings) -> str:
    """A hash of all that decides the row: the settings of the preparation and the identity of the files."""
    decisive = {"orientation", "crop", "spacing", "shape", "frames", "register", "intensity", "dtype"}
    preparation = without_later(settings.model_dump(mode="json", include=decisive))
    files = [
        [scan.file, scan.size, scan.modified, scan.session, scan.time, dict(scan.covariates)] for scan in subject.scans
    ]
    identity: list[Any] = [subject.name, subject.group, subject.cycle, dict(subject.covariates)]
    if len(settings.contrasts) > 1:
        identity.append([list(settings.contrasts), [scan.contrast for scan in subject.scans]])
    if had_other_times(subject):
        identity.append("times in float64, those of headers in seconds")
    return hashlib.sha256(
        json.dumps([SCHEMA_VERSION, preparation, identity, files], sort_keys=True).encode()
    ).hexdigest()


def without_later(data: dict[str, Any]) -> dict[str, Any]:
    """Settings of `data` without those of later versions that change nothing, so that hashes of them stay.

    Where the label maps are (`labels`) changes nothing in the shards.
    """
    later = {key: value for key, value in data.items() if (key, value) != ("register", "none") and key != "labels"}
    if later.get("intensity", {}).get("within") == "volume":
        later["intensity"] = {key: value for key, value in later["intensity"].items() if key != "within"}
    return later


def had_other_times(subject: Subject) -> bool:
    """Whether the row of an earlier version had other times: float32, and those of headers in the header's unit."""
    return subject.cycle is None and any(
        scan.time is None or float(np.float32(scan.time)) != scan.time for scan in subject.scans
    )


def prepare_subject(subject: Subject, storage: Storage, settings: DataSettings) -> Prepared:
    """Read a subject's scans one after another and make its row (`ROW_SCHEMA`); each scan is reduced as it comes.

    The grid comes from the first scan (`SpatialTransform.plan`), which every task may observe. So does the range of
    intensities, unless each scan has its own or all are measured (`intensity.over`). No later scan else influences how
    an earlier one looks.
    """
    frames: list[Frame] = []
    volumes: list[Float32[np.ndarray, "d h w"]] = []
    problems: list[Problem] = []
    facts: list[ScanFacts] = []
    transform: SpatialTransform | None = None
    comparisons = {contrast: VisitComparison() for contrast in settings.contrasts}
    remarks: list[tuple[str, str]] = []
    limit = int(settings.max_scan_gb * 1e9)
    for found in read_scans(subject, storage, limit, settings.min_scans, settings.register):
        if isinstance(found, Problem):
            problems.append(found)
        elif isinstance(found, ScanFacts):
            facts.append(found)
        else:
            if transform is None:
                transform = SpatialTransform.plan(
                    found.volume,
                    found.affine,
                    found.spacing,
                    shape=settings.shape,
                    target_spacing=settings.spacing,
                    orientation=settings.orientation,
                    crop=settings.crop,
                )
            volumes.append(transform.forward(found.volume))
            if not frames or frames[-1].file != found.file:
                fit = comparisons[found.contrast].fit(volumes[-1], transform.voxel_size(found.spacing))
                remarks += [(found.file, line) for line in (fit.warnings if fit else ())]
            frames.append(found.without_volume())
    if transform is None or len(group_visits(frames)) < settings.min_scans:  # `read_scans` has reported why
        return Prepared(None, tuple(problems))
    file, stacked = frames[0].file, np.stack(volumes)
    contrasts: list[ScaledContrast | None] = []
    try:
        for name in settings.contrasts:
            file = next((frame.file for frame in frames if frame.contrast == name), file)
            contrasts.append(scale_contrast(stacked, frames, name, settings.intensity))
        row = _row(subject, frames, contrasts, transform, facts, settings)
    except ValueError as error:
        problems.append(Problem(subject.name, storage.where(file), f"{error}; export the scans again"))
        return Prepared(None, tuple(problems))
    remarks += [remark for contrast in contrasts if contrast for remark in contrast.warnings(frames)]
    problems += [Problem(subject.name, storage.where(file), line, fatal=False) for file, line in remarks]
    return Prepared(row, tuple(problems))


def _row(
    subject: Subject,
    frames: Sequence[Frame],
    contrasts: Sequence[ScaledContrast | None],
    transform: SpatialTransform,
    facts: Sequence[ScanFacts],
    settings: DataSettings,
) -> dict[str, Any]:
    """The row."""
    names, visits = settings.contrasts, group_visits(frames)
    firsts = [frames[next(iter(visit.values()))] for visit in visits]
    times = [frame.time for frame in firsts]
    slots = len(visits) if settings.frames is None else settings.frames
    sources = np.arange(slots) if slots == len(visits) else assign_slots(times, slots)
    present = sources != ABSENT
    slot_frames, has_channel = fill_slots(contrasts, names, visits, sources, settings.shape)
    data, stored = encode(slot_frames, settings.dtype)
    stored_frames = decode(data, settings.dtype, stored, slot_frames.shape)
    digests = {fact.file: fact.sha256 for fact in facts}
    sums = [pair_differences(stored_frames[has, channel]) for channel, has in enumerate(has_channel.T) if has.any()]
    squares, differences = (sum(each) for each in zip(*sums, strict=True))
    row = {
        "subject": subject.name,
        "group": subject.group,
        "frames": data,
        "dtype": settings.dtype,
        "stored": list(stored),
        "shape": list(settings.shape),
        "present": present.tolist(),
        "times": slot_times(sources, times).tolist(),
        "intensity": list(next(contrast.scaled.intensity for contrast in contrasts if contrast)),
        "grid": transform.to_json(),
        "affine": np.asarray(frames[0].affine, dtype=np.float64).ravel().tolist(),
        "spacing": [float(size) for size in frames[0].spacing],
        "header": frames[0].stored and frames[0].stored.to_json(),
        "sources": json.dumps(sources_of(contrasts, names, frames, visits, sources, digests)),
        "covariates": json.dumps(
            {
                "subject": dict(subject.covariates),
                "visits": [dict(firsts[int(source)].covariates) if source != ABSENT else {} for source in sources],
            }
        ),
        "squares": squares,
        "differences": differences,
    }
    together = contrasts_json(names, has_channel, contrasts)
    row |= {} if together is None else {TOGETHER.name: together}
    return row | {"key": row_key(subject, settings), "checksum": row_checksum(row)}


def pair_differences(volumes: Float32[np.ndarray, "n d h w"]) -> tuple[float, int]:
    """Sum and number of (x_j − x_i)² over all voxels and pairs i < j: n Σ x² − (Σ x)², in float64 as both are close."""
    count = len(volumes)
    total, squared = np.zeros(volumes.shape[1:]), 0.0
    for volume in volumes.astype(np.float64):
        total += volume
        squared += float(np.vdot(volume, volume))
    return count * squared - float(np.vdot(total, total)), count * (count - 1) // 2 * volumes[0].size


def scan_digests(row: Mapping[str, Any]) -> list[str]:
    """The SHA-256 of each file that a row was made from, of each scan's voxels, and of each frame as it is stored.

    The voxels, as float32, know a scan again that was saved anew; the frame as it is stored also does for rows that
    an earlier version made without these. A frame without any contrast is nobody's.
    """
    present = np.asarray(json.loads(row[TOGETHER.name])["present"] if row.get(TOGETHER.name) else row["present"])
    volumes = np.frombuffer(row["frames"], np.uint8).reshape(present.size, -1)
    width = np.dtype(row["dtype"]).itemsize
    scans = [volume for volume, is_present in zip(volumes, present.ravel(), strict=True) if is_present]
    seen = [hashlib.sha256(slot.tobytes()).hexdigest() for slot in scans if (slot[width:] != slot[:-width]).any()]
    raw = [scan["voxels"] for scan in scans_in(row["sources"]) if scan.get("voxels")]
    return list(dict.fromkeys([*file_digests(row["sources"]), *raw, *seen]))


def file_digests(sources: str) -> list[str]:
    """The SHA-256 of each file in the column `sources`; each once, in order."""
    return list(dict.fromkeys(scan["sha256"] for scan in scans_in(sources) if "sha256" in scan))


def row_checksum(row: Mapping[str, Any]) -> str:
    """SHA-256 of all that a row holds, without `key`, which depends on when its files were modified.

    Also without the digests of voxels, which rows of earlier versions do not have.
    """
    digest = hashlib.sha256(row["frames"])
    others = {name: row[name] for name in ROW_SCHEMA.names if name not in ("frames", "header", "key", "checksum")}
    for name in ("header", TOGETHER.name):  # which rows of earlier versions do not have
        others |= {name: row[name]} if row.get(name) else {}
    if '"voxels"' in row["sources"]:  # else the text stays as it is
        others["sources"] = json.dumps([_without_voxels(slot) for slot in json.loads(row["sources"])])
    digest.update(json.dumps(others, sort_keys=True).encode())
    return digest.hexdigest()


def _without_voxels(scan: Any) -> Any:
    if isinstance(scan, list):
        return [_without_voxels(each) for each in scan]
    return scan and {key: value for key, value in scan.items() if key != "voxels"}


def with_all_columns(rows: pa.Table) -> pa.Table:
    """Stored rows in the order and types of `ROW_SCHEMA` and `TOGETHER`; columns that they do not have are null."""
    schema = ROW_SCHEMA.append(TOGETHER)
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema.with_metadata(rows.schema.metadata))


def parse_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is read, with its arrays: `frames` (t c d h w) float32 in [0, 1], `present`, `times`, `affine` (4 4).

    `contrasts` names the channels c (of one alone the name is empty), `has_channel` (t c) says which each slot has,
    and `intensities` (c 2) what 0 and 1 of each stand for; NaN where the subject has none. The JSON of `header`,
    `grid`, `sources` and `covariates` stays text.
    """
    present = np.asarray(row["present"], dtype=bool)
    together = json.loads(row.get(TOGETHER.name) or "null")
    names = ("",) if together is None else tuple(together["names"])
    has_channel = present[:, None] if together is None else np.asarray(together["present"], dtype=bool)
    intensities = [row["intensity"]] if together is None else [each or [np.nan] * 2 for each in together["intensity"]]
    shape = (len(present), len(names), *row["shape"])
    return {
        "subject": row["subject"],
        "group": row["group"],
        "frames": decode(row["frames"], row["dtype"], tuple(row["stored"]), shape),
        "present": present,
        "times": np.asarray(row["times"], dtype=np.float64),
        "contrasts": names,
        "has_channel": has_channel,
        "intensity": np.asarray(row["intensity"], dtype=np.float64),
        "intensities": np.asarray(intensities, dtype=np.float64),
        "affine": np.asarray(row["affine"], dtype=np.float64).reshape(4, 4),
        "spacing": np.asarray(row["spacing"], dtype=np.float64),
        "header": row.get("header"),
        **{name: row[name] for name in ("grid", "sources", "covariates")},
    }
