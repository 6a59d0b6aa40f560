"""The scans of one subject, read one file after another: only one file's voxels are in memory at a time.

A bad file yields its problems and none of its frames. So does a copy of an earlier one, and one on another grid than
the first, unless it can be brought onto that (`sadm_ray.data.read.visit_grid`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32, Float64
from nibabel.orientations import aff2axcodes

from sadm_ray.config import LARGEST_TIME
from sadm_ray.data.find.catalog import Covariates, Problem, Scan, Subject
from sadm_ray.data.read.nifti_io import Image, read_image
from sadm_ray.data.read.scan_checks import cycle_faults, voxel_digest, voxel_faults, voxel_range
from sadm_ray.data.read.stored_geometry import StoredGeometry
from sadm_ray.data.read.visit_grid import FirstVisit, Placement, Register
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage

_LEAST_STEP = 1e-13
"""The least time between two frames of a 4D file that is believed."""

Volume = Float32[np.ndarray, "D H W"]
FrameTime = tuple[int, float]
"""A frame's index (from 0) along the last axis of its file, and its time."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A volume of a subject, in the units of the scanner and on the grid of the subject's first visit.

    `index` (from 0) counts in a 4D file; none for a file of one volume. `time` is in the study's unit, `spacing`
    (x, y, z) in mm, and `affine` maps (x, y, z) to mm. `covariates` are the visit's. `digest` is of the file's own
    voxels (`voxel_digest`), `moved` what a registration found (`Placement`), `stored` is what the file's header says of
    its geometry.
    """

    file: str
    index: int | None
    session: str
    time: float
    volume: Float32[np.ndarray, "d h w"]
    affine: Float64[np.ndarray, "4 4"]
    spacing: tuple[float, float, float]
    covariates: Covariates = field(default_factory=dict)
    digest: str = ""
    moved: Float64[np.ndarray, "4 4"] | None = None
    stored: StoredGeometry | None = None
    contrast: str = ""

    def without_volume(self) -> Frame:
        """The same without its voxels, to keep all frames of a subject in memory."""
        return replace(self, volume=np.empty((0, 0, 0), dtype=np.float32))


@dataclass(frozen=True, eq=False)
class ScanFacts:
    """Properties of a file that was read.

    `shape` and `spacing` (mm) are of (x, y, z), `count` is the number of its frames, `dtype` the stored type. `low` and
    `high` are the least and greatest value of the frames used; `size` is in bytes, `sha256` of the file as stored.
    """

    file: str
    session: str
    shape: tuple[int, int, int]
    count: int
    spacing: tuple[float, float, float]
    affine: Float64[np.ndarray, "4 4"]
    dtype: str
    low: float
    high: float
    size: int
    sha256: str
    contrast: str = ""

    @property
    def orientation(self) -> str:
        """The directions of the axes; `LPS`: to the left, the back, the head."""
        return "".join(aff2axcodes(self.affine))


def read_scans(
    subject: Subject, storage: Storage, limit: int, min_scans: int = 2, register: Register = "none"
) -> Iterator[Frame | ScanFacts | Problem]:
    """Read a subject's files; each good one yields its frames in the order of time, then its facts.

    A cine (`subject.cycle`) gives the frames from ED to ES, past the end of the file and on from its start if ES comes
    first. A 4D file without a time gives all its frames, `Image.time_step` apart. All other files are one volume each,
    at their own time; bad ones are left out, and the first good one has the grid that the others are brought to.
    Of a visit with several contrasts the first good one says where it lies (and is registered); the others follow by
    their headers, since they were scanned in one session.

    Args:
        limit: the most bytes of voxels that are read of a file.
        min_scans: a subject with fewer usable frames, or visits of several contrasts, is reported as a problem.
        register: how visits on another grid are brought onto the first one's.

    Returns:
        At least two frames, or fatal problems that say why there are fewer. Nothing is raised for what is in a file.
    """
    first, seen = FirstVisit(register), dict[str, str]()
    usable, reported = 0, False
    told: set[str] = set()
    visits: dict[float | None, Placement] = {}  # of contrasts that were placed, by the time of their visit
    for scan in subject.scans:
        name = storage.where(scan.file)
        beside = visits.get(scan.time) if scan.contrast else None
        try:
            read = _read_scan(subject, scan, storage, limit, min_scans).on_first(first, seen, name, beside)
        except DataError as error:
            faults = error.problems or (str(error),)
        except MemoryError:
            faults = ("does not fit the memory; lower data.max_scan_gb, or give the workers more",)
        except Exception as error:  # a bug or a failing store, which concerns this file only
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            faults = (f"{reason}; look at the file or report a bug",)
        else:
            for kind, line in read.image.remarks.items():
                if kind not in told:
                    yield Problem(subject.name, name, line, fatal=False)
            told |= read.image.remarks.keys()
            for index, time, digest in read.frames:
                yield Frame(
                    file=scan.file,
                    index=index if read.facts.count > 1 else None,
                    session=scan.session,
                    time=time,
                    volume=read.placement(read.frame(index)),
                    affine=first.facts.affine,
                    spacing=first.facts.spacing,
                    covariates=scan.covariates,
                    digest=digest,
                    moved=read.placement.moved,
                    stored=read.image.stored,
                    contrast=scan.contrast,
                )
            yield from (Problem(subject.name, name, line, fatal=False) for line in read.remarks)
            yield read.facts
            usable += len(read.frames) if beside is None else 0
            visits.setdefault(scan.time, read.placement)
            del read  # before the next file is read
            continue
        reported = True
        yield from (Problem(subject.name, name, line) for line in faults)
    if usable < min_scans and not (reported and len(subject.scans) == 1):
        where = first.facts.file if first.known else subject.scans[0].file if subject.scans else ""
        count = f"only {_count_word(usable)} usable visit{'s' * (usable > 1)}" if usable else "no usable visit"
        yield Problem(
            subject.name,
            storage.where(where),
            f"{count}; at least {_count_word(min_scans)} are needed: mend or add visits",
        )


def _check(faults: list[str]) -> None:
    if faults:
        raise DataError(faults[0], faults)


@dataclass(frozen=True, eq=False)
class _Read:
    """A file that was read: its frames that are used, with a digest of each one's voxels, and remarks on it."""

    image: Image
    frames: list[tuple[int, float, str]]
    facts: ScanFacts
    placement: Placement
    remarks: tuple[str, ...] = ()
    only: Volume | None = None  # that of a file of one; frames of a 4D file are made when they are asked for

    def frame(self, index: int) -> Volume:
        """One frame on the file's own grid."""
        return self.image.frame(index) if self.only is None else self.only

    def on_first(self, first: FirstVisit, seen: dict[str, str], name: str, beside: Placement | None = None) -> _Read:
        """The same on the grid of the first visit, without copies of frames in `seen`; DataError if none is left.

        `seen` are the digests of earlier frames and their files; those of this file, called `name`, are added.
        `beside` is the placement of another contrast of the visit.
        """
        if beside is None:
            placement, remarks = first.place(self.facts, self.frame)
        else:
            placement, remarks = first.place_beside(self.facts, beside), []
        kept, copies = [], []
        for index, time, digest in self.frames:
            own = voxel_digest(placement(self.frame(index))) if placement.turns else digest
            if own in seen:
                copies.append((index + 1, seen[own]))
            else:
                kept.append((index, time, own))
                seen[own] = name
        if copies and not kept:
            _check([f"is the same scan as {copies[0][1]}, voxel for voxel; remove one of them or copy it again"])
        if copies:
            numbers = ", ".join(str(number) for number, _ in copies[:5]) + (", …" if len(copies) > 5 else "")
            remarks.append(f"frames that repeat an earlier one voxel for voxel are left out: {numbers}; look at them")
        return replace(self, frames=kept, placement=placement, remarks=(*self.remarks, *remarks))


def _read_scan(subject: Subject, scan: Scan, storage: Storage, limit: int, min_scans: int) -> _Read:
    """DataError if anything is wrong with the file."""
    image = read_image(storage, scan.file, scan.size, limit)
    if subject.cycle is not None:
        frame_times = _cine(*subject.cycle, image.count)
    elif scan.time is None:
        frame_times = _series(subject, image, min_scans)
    else:
        frame_times = _visit(scan.time, image)
    low, high, digests, last = _voxels(image, frame_times)
    facts = ScanFacts(
        file=scan.file,
        session=scan.session,
        shape=image.shape,
        count=image.count,
        spacing=image.spacing,
        affine=image.affine,
        dtype=image.dtype,
        low=low,
        high=high,
        size=scan.size,
        sha256=image.sha256,
        contrast=scan.contrast,
    )
    frames = [(*frame, digest) for frame, digest in zip(frame_times, digests, strict=True)]
    is_series = subject.cycle is None and scan.time is None
    remarks = tuple(_series_warning(image)) if is_series else ()
    return _Read(image, frames, facts, Placement.none(image.shape), remarks, last if image.count == 1 else None)


def _cine(ed: int, es: int, count: int) -> list[FrameTime]:
    """Frames ED to ES (from 1) at times 0 to 1. The heart beats on, so ES before ED continues at the first frame."""
    _check(cycle_faults(ed, es, count))
    last = (es - ed) % count
    return [((ed - 1 + step) % count, step / last) for step in range(last + 1)]


def _series(subject: Subject, image: Image, min_scans: int) -> list[FrameTime]:
    """All frames of a 4D file, in seconds; numbered where its header does not hold the time between them."""
    if len(subject.scans) > 1:
        _check(["has no time though its subject has other files; give every one of them a time, or only one 4D file"])
    if image.count < min_scans:
        needed = f"only {_count_word(image.count)} visit; at least {_count_word(min_scans)} are needed"
        _check([f"{needed}: give a 4D file, or several files with their times"])
    step = image.time_step if _has_time_step(image) else 1.0
    return [(index, index * step) for index in range(image.count)]


def _has_time_step(image: Image) -> bool:
    return _LEAST_STEP <= image.time_step <= LARGEST_TIME / image.count  # NaN is not


def _series_warning(image: Image) -> list[str]:
    """A warning where the times of a 4D file are guessed."""
    if not _has_time_step(image):
        return [
            f"its header has no time between frames ({image.time_step:g}); their numbers from 0 are used, not seconds: "
            "set pixdim[4] and xyzt_units, or set data.time_unit=frames if no file has one"
        ]
    if not image.time_unit:
        return [
            f"its header names no unit of the time between frames, {image.time_step:g}; seconds are assumed: set "
            "xyzt_units"
        ]
    return []


def _count_word(count: int) -> str:
    return {1: "one", 2: "two"}.get(count, str(count))


def _visit(time: float, image: Image) -> list[FrameTime]:
    if image.count > 1:
        _check([f"has {image.count} frames where a visit is one volume; split it, or list it alone, without a time"])
    return [(0, time)]


def _voxels(image: Image, frame_times: list[FrameTime]) -> tuple[float, float, list[str], Volume]:
    """The least and greatest value of the frames that are used, none of which is faulty; their digests; the last."""
    lows, highs, faults, digests = [], [], [], []
    volume = np.empty((0, 0, 0), dtype=np.float32)
    for index, _ in frame_times:
        volume = image.frame(index)
        low, high = voxel_range(volume)
        lows.append(low)
        highs.append(high)
        faults += [(index, line) for line in voxel_faults(volume, low, high)]
        digests.append(voxel_digest(volume))
    if faults:
        index, line = faults[0]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        _check([f"frame {index + 1} of {image.count}{more}: {line}" if image.count > 1 else line])
    return min(lows), max(highs), digests, volume
