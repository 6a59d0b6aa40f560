"""Several contrasts in one row: which visits have which, each one's way to [0, 1], and a row as one contrast's alone.

A visit is there when one of its contrasts is. What a contrast lacks is as absent for it as a visit that never was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from sadm_ray.config import IntensitySettings
from sadm_ray.data.normalise.time_slots import ABSENT
from sadm_ray.data.normalise.visit_intensity import Knots, Scaled, scale
from sadm_ray.data.read.subject_scans import Frame

Visit = Mapping[str, int]
"""Of each contrast that a visit has, the index of its frame."""


def group_visits(frames: Sequence[Frame]) -> list[dict[str, int]]:
    """The frames of a subject, which are in the order of time, by visit; without contrasts each is one."""
    visits: list[dict[str, int]] = []
    for index, frame in enumerate(frames):
        if visits and frame.contrast and frames[index - 1].time == frame.time:
            visits[-1][frame.contrast] = index
        else:
            visits.append({frame.contrast: index})
    return visits


@dataclass(frozen=True, eq=False)
class ScaledContrast:
    """The frames of one contrast in [0, 1]; `places` has the position of each in `scaled` by its index among all."""

    scaled: Scaled
    places: Mapping[int, int]

    def volume(self, index: int) -> Float32[np.ndarray, "d h w"]:
        """The frame with this index among those of all contrasts."""
        volume: Float32[np.ndarray, "d h w"] = self.scaled.frames[self.places[index]]
        return volume

    def warnings(self, frames: Sequence[Frame]) -> list[tuple[str, str]]:
        """A file and what looks wrong about its intensities, for each where something does."""
        lines = zip(self.places, self.scaled.warnings, strict=True)
        return [(frames[index].file, line) for index, line in lines if line]

    def knots(self, index: int) -> Knots | None:
        """The way of the frame with this index, if it has one of its own."""
        return self.scaled.knots[self.places[index]]


def scale_contrast(
    volumes: Float32[np.ndarray, "n d h w"], frames: Sequence[Frame], contrast: str, settings: IntensitySettings
) -> ScaledContrast | None:
    """Bring the frames of one contrast to [0, 1] by themselves; None where there are none.

    Raises:
        ValueError: as `visit_intensity.scale`.
    """
    own = [index for index, frame in enumerate(frames) if frame.contrast == contrast]
    if not own:
        return None
    starts = [place == 0 or frames[index].file != frames[own[place - 1]].file for place, index in enumerate(own)]
    its = volumes if len(own) == len(frames) else volumes[own]
    return ScaledContrast(scale(its, settings, starts), {index: place for place, index in enumerate(own)})


def fill_slots(
    contrasts: Sequence[ScaledContrast | None],
    names: Sequence[str],
    visits: Sequence[Visit],
    sources: Int64[np.ndarray, " t"],
    shape: Sequence[int],
) -> tuple[Float32[np.ndarray, "t c d h w"], Bool[np.ndarray, "t c"]]:
    """The volumes of all slots, zeros where a contrast is absent, and which contrasts each slot has.

    Args:
        sources: of each slot its visit, or `ABSENT`.
    """
    volumes = np.zeros((len(sources), len(names), *shape), dtype=np.float32)
    has_channel = np.zeros(volumes.shape[:2], dtype=bool)
    for slot in np.flatnonzero(sources != ABSENT):
        visit = visits[int(sources[slot])]
        for channel, (name, contrast) in enumerate(zip(names, contrasts, strict=True)):
            if contrast is not None and name in visit:
                volumes[slot, channel] = contrast.volume(visit[name])
                has_channel[slot, channel] = True
    return volumes, has_channel


def sources_of(
    contrasts: Sequence[ScaledContrast | None],
    names: Sequence[str],
    frames: Sequence[Frame],
    visits: Sequence[Visit],
    sources: Int64[np.ndarray, " t"],
    digests: Mapping[str, str],
) -> list[Any]:
    """The column `sources` of a row: of each slot its scan, of several contrasts a list of them; None what is absent.

    Args:
        sources: of each slot its visit, or `ABSENT`.
        digests: the SHA-256 of each file.
    """
    slots: list[Any] = []
    for source in sources:
        visit: Visit = visits[int(source)] if source != ABSENT else {}
        scans = [
            _source(frames[visit[name]], digests, contrast.knots(visit[name])) if contrast and name in visit else None
            for name, contrast in zip(names, contrasts, strict=True)
        ]
        slots.append((scans if len(names) > 1 else scans[0]) if visit else None)
    return slots


def _source(frame: Frame, digests: Mapping[str, str], knots: Knots | None) -> dict[str, Any]:
    """Where a slot's scan comes from; `knots` and `moved` only where it has an intensity or a place of its own."""
    source: dict[str, Any] = {
        "file": frame.file,
        "frame": frame.index,
        "session": frame.session,
        "sha256": digests[frame.file],
        "voxels": frame.digest,
    }
    if knots is not None:
        source["knots"] = [list(knot) for knot in knots]
    if frame.moved is not None:
        source["moved"] = frame.moved.ravel().tolist()
    return source


def contrasts_json(
    names: Sequence[str], has_channel: Bool[np.ndarray, "t c"], contrasts: Sequence[ScaledContrast | None]
) -> str | None:
    """The column `contrasts` of a row; None of one contrast alone, whose other columns say all."""
    if len(names) == 1:
        return None
    intensity = [None if each is None else list(each.scaled.intensity) for each in contrasts]
    return json.dumps({"names": list(names), "present": has_channel.tolist(), "intensity": intensity})


def scans_in(sources: str) -> list[dict[str, Any]]:
    """The scans in the column `sources` of a row, those of one visit after each other."""
    slots = json.loads(sources)
    return [scan for slot in slots for scan in (slot if isinstance(slot, list) else [slot]) if scan]


def of_contrast(row: Mapping[str, Any], channel: int) -> Mapping[str, Any]:
    """A row (`subject_row.parse_row`) as that of one of its contrasts: a visit that lacks it is absent.

    Session and place of a visit are those of its other contrasts, also where it lacks this one.
    """
    if row["frames"].shape[1] == 1:
        return row
    slots = json.loads(row["sources"])
    own = [None if slot is None else slot[channel] or _place_of(slot) for slot in slots]
    one = slice(channel, channel + 1)
    return {
        **row,
        "contrasts": row["contrasts"][one],
        "frames": row["frames"][:, one],
        "has_channel": row["has_channel"][:, one],
        "present": row["has_channel"][:, channel],
        "intensity": row["intensities"][channel],
        "intensities": row["intensities"][one],
        "sources": json.dumps(own),
    }


def _place_of(slot: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Session and place of a visit, without a scan."""
    scans = [scan for scan in slot if scan]
    return {key: scan[key] for scan in scans[:1] for key in ("session", "moved") if key in scan}
