"""What generated files are called: by entities and suffixes that BIDS 1.11 knows, so that its tools tell them apart.

    sub-01/ses-03/anat/sub-01_ses-03_desc-toLastSample1_T1w.nii.gz            at the time of the visit 03
    sub-01/ses-time12p5/anat/sub-01_ses-time12p5_desc-visitsMean_T1w.nii.gz   at the time 12.5, which no visit has
    sub-01/ses-03/anat/sub-01_ses-03_desc-toLastSample1_dseg.nii.gz           its structures
    sub-01/anat/sub-01_desc-futureSample1_cine.nii.gz                         frames of a cine: one 4D file

A study of several contrasts has the suffix of each, or `mod-<contrast>` where the suffix cannot tell them apart.
BIDS has no suffix for a cine, a sequence of visits, or a scan whose own name says none: theirs are left out by
`.bidsignore` (`FOREIGN_SUFFIXES`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sadm_ray.config import SAFE_NAME
from sadm_ray.storage import leads_out

BIDS_VERSION = "1.11.0"
NAMING = f"entities of BIDS {BIDS_VERSION}"
"""The fact of a request that says how its files are called; earlier versions have none."""

CINE, UNKNOWN = "cine", "synth"
LABELS = "dseg"
"""The suffix of label maps."""
FOREIGN_SUFFIXES = (CINE, UNKNOWN)
"""Suffixes that BIDS does not know."""

_SUFFIXES = {
    "T1w",
    "T2w",
    "PDw",
    "T2starw",
    "FLAIR",
    "inplaneT1",
    "inplaneT2",
    "angio",
    "UNIT1",
    "T1map",
    "T2map",
    "T2starmap",
    "R1map",
    "R2map",
    "R2starmap",
    "PDmap",
    "MTRmap",
    "MTsat",
    "T1rho",
    "MWFmap",
    "MTVmap",
    "Chimap",
    "S0map",
    "M0map",
}
"""The suffixes of single volumes in `anat/` of a derivative that need no further entity."""

_LONGEST = 40  # characters of a label; a file's name, of three, may have 255
_IMAGE = re.compile(r"(?:.*/)?sub-[^/]+_(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?")
_SESSION_FOLDER = re.compile(r"ses-[A-Za-z0-9]+")


def bare_label(name: str, entity: str = "") -> str:
    """A name in letters and digits: `to-last` is `toLast`. Other names may give the same.

    Args:
        entity: `sub` or `ses`, which is no part of the label where the name begins with it and a hyphen.
    """
    first, *others = re.findall("[A-Za-z0-9]+", name.removeprefix(f"{entity}-")) or ["x"]
    return first + "".join(other[0].upper() + other[1:] for other in others)


def marked_label(name: str, entity: str = "") -> str:
    """A label that no other name has: `bare_label`, cut where it is long, and six digits of a hash of the name."""
    return f"{bare_label(name, entity)[:_LONGEST]}x{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def bids_labels(names: Collection[str], entity: str = "") -> dict[str, str]:
    """A label for each name: letters and digits, short, and different also to disks that do not tell upper from lower.

    A name that is such a label remains as it is.
    """
    bare = {name: bare_label(name, entity) for name in names}
    shared = Counter(label.lower() for label in bare.values())
    return {
        name: marked_label(name, entity)
        if len(label) > _LONGEST or (label != name and shared[label.lower()] > 1)
        else label
        for name, label in bare.items()
    }


def time_label(time: float) -> str:
    """The session of a time at which there was no visit: `time12p5`. Two times have two labels."""
    text = f"{time:.6g}"
    text = text if float(text) == time else repr(float(time))
    return "time" + text.removesuffix(".0").replace("-", "m").replace(".", "p").replace("+", "")


def is_cine(row: Mapping[str, Any], layout: str = "") -> bool:
    """Whether a subject's scans (`subject_row.parse_row`) are frames of one acquisition rather than visits.

    Args:
        layout: `data.layout`; ACDC has frames of a heart beat, also where each is a file.
    """
    return layout == "acdc" or any(scan and scan.get("frame") is not None for scan in json.loads(row["sources"]))


def suffix_of(file: str) -> str:
    """The suffix of a scan with a BIDS name that a volume like it may have; empty where there is none."""
    image = _IMAGE.fullmatch(file)
    return image["suffix"] if image and image["suffix"] in _SUFFIXES else ""


def description_label(task: str, estimate: str) -> str:
    """The `desc-` of an estimate, given the label of its task."""
    return task + estimate[0].upper() + estimate[1:]


def is_file_of(subject: str, path: str) -> bool:
    """Whether it is a place where the volumes of a subject are written, by this version or an earlier one.

    That is `sub-<label>/[ses-<label>/]anat/<file>`; earlier `<task>/sub-<subject>/<file>`.
    """
    *folders, name = path.split("/")
    top = folders.pop(0) if folders else ""
    if not name or leads_out(name):
        return False
    if folders[-1:] == ["anat"] and top in {f"sub-{label(subject, 'sub')}" for label in (bare_label, marked_label)}:
        return len(folders) == 1 or (len(folders) == 2 and bool(_SESSION_FOLDER.fullmatch(folders[0])))
    return folders == [f"sub-{subject}"] and bool(SAFE_NAME.fullmatch(top))


@dataclass(frozen=True)
class SubjectNames:
    """The names of the files of a subject and a task or request.

    Args:
        row: of the subject (`subject_row.parse_row`): the sessions and files of its scans.
        subject, task: their labels (`bids_labels`).
    """

    row: Mapping[str, Any]
    subject: str
    task: str

    def frame(self, slot: int | None, time: float, estimate: str) -> str:
        """The path, without its ending, of a volume at a visit, or else at a time."""
        session = self._session(slot, time)
        scan = None if slot is None else self._scans[slot]
        present = [scan] if scan else [each for each in self._scans if each]
        suffix = self._contrast if self._contrast in _SUFFIXES else suffix_of(present[0]["file"]) if present else ""
        return self._path(session, estimate, suffix or UNKNOWN)

    def label_map(self, slot: int | None, time: float, estimate: str) -> str:
        """The path, without its ending, of the labels of a volume; of several contrasts they are those of the visit."""
        return self._path(self._session(slot, time), estimate, LABELS, of_contrast=False)

    def sequence(self, estimate: str, suffix: str) -> str:
        """The path, without its ending, of a 4D file; a cine is in its session, if it has one."""
        session = next(iter(self._sessions.values())) if suffix == CINE and len(self._sessions) == 1 else None
        return self._path(session, estimate, suffix)

    def _session(self, slot: int | None, time: float) -> str:
        """The label of the visit, or else of the time."""
        scan = None if slot is None else self._scans[slot]
        session = self._sessions.get(scan["session"]) if scan else None
        if session is None:
            session = time_label(time)
            while session.lower() in {label.lower() for label in self._sessions.values()}:
                session = f"no{session}"  # a visit is called like a time
        return session

    @property
    def _contrast(self) -> str:
        """The row's own, of a study of several."""
        return str(next(iter(self.row.get("contrasts", ())), ""))

    @cached_property
    def _scans(self) -> list[Mapping[str, Any] | None]:
        return [scan and {"session": "", "file": "", **scan} for scan in json.loads(self.row["sources"])]

    @cached_property
    def _sessions(self) -> dict[str, str]:
        return bids_labels({scan["session"] for scan in self._scans if scan and scan["session"]}, "ses")

    def _path(self, session: str | None, estimate: str, suffix: str, *, of_contrast: bool = True) -> str:
        entities = [f"sub-{self.subject}", *([f"ses-{session}"] if session else [])]
        named = of_contrast and self._contrast not in ("", suffix)
        contrast = [f"mod-{bare_label(self._contrast)}"] if named else []
        description = f"desc-{description_label(self.task, estimate)}"
        return "/".join([*entities, "anat", "_".join([*entities, *contrast, description, suffix])])
