"""Warnings from comparing the subjects of a study, about what no single subject shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sadm_ray.config import DataSettings
from sadm_ray.data.find.catalog import SPLITS

Visit = Mapping[str, Any]
Size = tuple[float, str]
"""A voxel size in mm, and the subject that has it."""

MAX_SPACING_RATIO = 2.0  # how many times larger the voxels of one subject may be than those of another
AXES = {"left to right": "LR", "front to back": "AP", "foot to head": "IS"}


def cohort_warnings(records: Sequence[Mapping[str, Any]], settings: DataSettings) -> Iterator[str]:
    """Lines, each with its mend, about the records of an inspection (`sadm_ray.data.inspect.inspection`).

    A subject is judged by its first visit: the others are on the same grid.
    """
    usable = [record for record in records if record["usable"]]
    first_visits = [(record["subject"], record["visits"][0]) for record in usable]
    yield from _split_warnings(Counter(record["split"] for record in usable), settings)
    orientations = Counter(visit["orientation"] for _, visit in first_visits)
    if len(orientations) > 1 and settings.orientation == "native":
        listed = ", ".join(f"{count} {codes}" for codes, count in orientations.most_common())
        yield f"subjects lie in different orientations ({listed}); set data.orientation=canonical"
    for axis, codes in AXES.items() if settings.spacing is None else ():
        yield from _spacing_warnings(axis, sorted(_sizes(first_visits, codes)))


def _split_warnings(splits: Mapping[str, int], settings: DataSettings) -> Iterator[str]:
    count = sum(splits.values())
    if count < len(SPLITS):
        yield f"usable subjects: {count}; {', '.join(SPLITS)} need at least one each: add subjects"
        return
    requested = {"val": settings.split.val > 0, "test": settings.split.folds is not None or settings.split.test > 0}
    empty = [split for split in SPLITS if requested.get(split, True) and not splits.get(split)]
    if empty:
        yield f"no subject falls to {' and '.join(empty)}; set data.split.method=balanced, or larger fractions"


def _sizes(first_visits: Sequence[tuple[str, Visit]], codes: str) -> Iterator[Size]:
    """The voxel sizes along an axis of the body, whichever axis of the file it is."""
    for subject, visit in first_visits:
        for size, code in zip(visit["spacing"], visit["orientation"], strict=True):
            if code in codes:
                yield size, subject


def _spacing_warnings(axis: str, sizes: Sequence[Size]) -> Iterator[str]:
    if not sizes or sizes[-1][0] <= MAX_SPACING_RATIO * sizes[0][0]:
        return
    (low, small), (high, large) = sizes[0], sizes[-1]
    sizes_text = f"from {axis}, voxels are {low:.3g} mm in {small} and {high:.3g} mm in {large}"
    yield f"{sizes_text}; see that both are true, and set data.spacing if a voxel should be as large in all subjects"
