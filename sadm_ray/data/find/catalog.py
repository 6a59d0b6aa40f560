"""A catalog of a study: subjects, their scans, and problems. It is made without opening an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SPLITS = ("train", "val", "test")

Covariates = Mapping[str, float | str]
"""Covariates by name; a missing value has no entry."""


@dataclass(frozen=True, slots=True)
class Scan:
    """One file of a subject.

    `file` is its path below the study's root (or absolute, or a URL), `session` its visit's name. `time` is when it was
    acquired, in the study's unit; none for a 4D file, whose frames have times of their own. `size` (bytes) and
    `modified` (ns) show whether it has changed since. Of a study with several contrasts, `contrast` is that of the
    file; the files of one visit follow each other in the order of the contrasts, under one session and time.
    """

    file: str
    session: str
    time: float | None
    size: int = 0
    modified: int = 0
    covariates: Covariates = field(default_factory=dict)
    contrast: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject and its scans in the order of time.

    `cycle` is (ED, ES), counted from 1, of a cine: its frames from ED to ES are the sequence, at times 0 to 1. `split`
    is set where the study itself assigns one.
    """

    name: str
    scans: tuple[Scan, ...]
    group: str = ""
    cycle: tuple[int, int] | None = None
    covariates: Covariates = field(default_factory=dict)
    split: str | None = None


@dataclass(frozen=True)
class Problem:
    """What is wrong with which file or folder, and how to mend it, in one line.

    `fatal`: the file, and with it perhaps the subject, is left out. Otherwise it is used, and this is a warning.
    """

    subject: str
    file: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.subject}: {self.file}: {self.message}" if self.subject else f"{self.file}: {self.message}"


_ALIKE = 4
"""From how many subjects on equal warnings become one."""


def merge_alike(problems: Iterable[Problem], where: str) -> list[Problem]:
    """The problems, with one warning of the study in the place of equal ones of many subjects.

    What was left out keeps its line for each file.
    """
    alike: dict[str, list[Problem]] = {}
    merged = []
    for problem in problems:
        if problem.fatal or not problem.subject:
            merged.append(problem)
        else:
            alike.setdefault(problem.message, []).append(problem)
    for message, some in alike.items():
        names = list(dict.fromkeys(problem.subject for problem in some))
        if len(names) < _ALIKE:
            merged += some
        else:
            first = ", ".join(names[:3])
            merged.append(Problem("", where, f"of {len(names)} subjects ({first}, …): {message}", fatal=False))
    return merged


@dataclass(frozen=True)
class Catalog:
    """The subjects that were found, in the order of their names, all problems, and the unit of time.

    `folder` is what the paths of the scans are relative to.
    """

    folder: str
    subjects: tuple[Subject, ...]
    problems: tuple[Problem, ...]
    time_unit: str
