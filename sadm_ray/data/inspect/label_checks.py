"""What an inspection says of label maps: which visit has one, how it lies on its scan, and what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sadm_ray.data.find.catalog import Problem
from sadm_ray.data.find.label_files import LabelFile, LabelFiles
from sadm_ray.data.find.time_units import some
from sadm_ray.data.read.label_reader import LabelMap, read_label_map
from sadm_ray.data.read.subject_scans import Frame, ScanFacts
from sadm_ray.errors import DataError

Facts = dict[str, Any]
"""A label map: its `file`; the `frame` (from 0) of a 4D scan, else null; how it `lies` (`LabelMap.lies`); `structures`
with the `voxels` and the `ml` of each (null where voxel sizes look reset to 1 mm); `unknown` values."""


def check_labels(
    subject: str, scan: ScanFacts, frames: Sequence[Frame], labels: LabelFiles, visits: Sequence[Mapping[str, Any]] = ()
) -> tuple[list[Facts], list[Problem]]:
    """The label maps of the frames of a scan, and what is wrong with them; fatal: the label map is not used.

    Args:
        visits: the files before it; what they say of another contrast of the same visit is not said again.
    """
    said = [each["file"] for visit in visits if visit["session"] == scan.session for each in visit["labels"]]
    facts: list[Facts] = []
    problems: list[Problem] = []
    for frame in frames:
        file: LabelFile | None = None
        try:
            file = labels.of(frame.file, frame.index)
            if file is None or labels.storage.where(file.file) in said:
                continue
            read = read_label_map(labels.storage, file, frame.index)
            read.on(scan)
        except DataError as error:
            where = labels.storage.where(frame.file if file is None else file.file)
            lines = error.problems or (str(error),)
            problems += [Problem(subject, where, f"its label map is not used: {line}") for line in lines]
            continue
        facts.append(_facts(read, scan, frame.index, labels.storage.where(file.file)))
        where = labels.storage.where(file.file)
        problems += [Problem(subject, where, line, fatal=False) for line in _remarks(read, facts[-1])]
    return facts, problems


def label_warnings(records: Sequence[Mapping[str, Any]], labels: LabelFiles) -> Iterator[Problem]:
    """Warnings from comparing the label maps of a study: structures that some lack, and those of no scan."""
    maps = [(record["subject"], each) for record in records for each in labels_in(record)]
    known = structure_counts(records)
    for subject, each in maps:
        lacking = [name for name in known if not each["structures"].get(name, {}).get("voxels")]
        if lacking and len(lacking) < len(known):
            line = f"has no voxel of {some(lacking)}, which other label maps have; see whether that is meant"
            yield Problem(subject, each["file"], line, fatal=False)
    used = {each["file"] for _, each in maps}
    found = [labels.storage.where(file.file) for files in labels.found.values() for file in files]
    unused = sorted(set(found) - used)
    if unused and labels.layout == "bids":
        line = f"{len(unused)} label maps are of no visit that is used, or cannot be used; compare sub-, ses- and run-"
        yield Problem("", unused[0], line, fatal=False)


def structure_counts(records: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How many label maps have voxels of each structure."""
    counts: Counter[str] = Counter()
    for record in records:
        for each in labels_in(record):
            counts.update(name for name, size in each["structures"].items() if size["voxels"])
    return counts


def labels_in(record: Mapping[str, Any]) -> list[Facts]:
    """The label maps of a subject's record (`sadm_ray.data.inspect.inspection`)."""
    return [each for visit in record["visits"] for each in visit.get("labels", ())]


def _facts(read: LabelMap, scan: ScanFacts, frame: int | None, file: str) -> Facts:
    voxel_ml = read.voxel_ml
    structures = {
        name: {"voxels": count, "ml": None if voxel_ml is None else count * voxel_ml}
        for name, count in read.counts().items()
    }
    return {
        "file": file,
        "frame": frame,
        "lies": read.lies(scan),
        "structures": structures,
        "unknown": read.unknown(),
    }


def _remarks(read: LabelMap, facts: Facts) -> list[str]:
    remarks = []
    if facts["lies"] == "another":
        how = "its voxels are taken as those of the scan" if read.by_voxel else "it is brought there by its header"
        remarks.append(f"is a label map on another grid than its scan; {how}: look at both in a viewer")
    if facts["unknown"]:
        named = some([str(value) for value in facts["unknown"]])
        remarks.append(f"has the values {named}, which no table names; they are not scored: name them or clear them")
    if not any(size["voxels"] for size in facts["structures"].values()):
        remarks.append("is a label map without any structure; see whether it is that of this scan")
    return remarks
