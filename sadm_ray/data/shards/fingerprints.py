"""By what a person is recognised again, in this study and in others, and a digest of who is in which split."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq

from sadm_ray.config import is_url
from sadm_ray.data.shards.prepared_study import Study
from sadm_ray.storage import Storage

_DIGITS = 16
"""Of a hash, hexadecimal: two of a million scans are alike by chance once in 40 million studies."""
_NAME, _GROUP = "n", "g"
"""First letters of hashes that are not of scans; no hexadecimal digit is one."""
_TABLES = (".csv", ".tsv", ".parquet")


def fingerprints(study: Study, *, groups: bool = True) -> Mapping[str, frozenset[str]]:
    """Of each subject: hashes of its scans (`subject_row.scan_digests`), of its name and of its group in the study.

    Two subjects that share one are the same person: a scan was copied under another name or saved anew, or other scans
    were taken of the same subject. The phantom's names say nothing: another seed gives other hearts the same names. A
    study that an earlier version prepared has no hashes of scans until it is prepared again.

    Args:
        groups: whether those of one group are one person, as they are with `data.split.by: group`.
    """
    with Storage(study.location).open_random(study.subjects_file) as stream:
        rows = pq.read_table(stream).to_pylist()
    root = study.settings.get("root")
    place = None if root is None else _place(str(root))
    found = {}
    for row in rows:
        marks = {digest[:_DIGITS] for digest in row.get("scans") or ()}
        if place is not None:
            marks.add(_NAME + _digest(place, "name", row["subject"]))
            if groups and row.get("group"):
                marks.add(_GROUP + _digest(place, "group", row["group"]))
        found[row["subject"]] = frozenset(marks)
    return found


def person_is_group(study: Study) -> bool:
    """Whether the study was split by group, so that those of one group are one person."""
    split = study.settings.get("split") or {}
    return split.get("by") == "group"


def has_scans(fingerprint: frozenset[str]) -> bool:
    """Whether a person would be recognised by the scans, and not by a name alone."""
    return any(not mark.startswith((_NAME, _GROUP)) for mark in fingerprint)


def split_digest(study: Study) -> str:
    """Of who trains, and of who validates."""
    return _digest(*(names_digest(study.subjects.get(split, ())) for split in ("train", "val")))


def names_digest(names: Sequence[str]) -> str:
    """Of who is in a split, in any order."""
    return _digest(*sorted(names))


def _place(root: str) -> str:
    """The folder of a study however it is spelled, of a manifest that in which it lies."""
    if root.startswith("file://"):
        root = root.removeprefix("file://")
    place = root.rstrip("/") if is_url(root) else os.path.realpath(Path(root).expanduser())
    return str(PurePosixPath(place).parent) if place.endswith(_TABLES) else place


def _digest(*values: str) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:_DIGITS]
