"""Whether requests can be answered at all, before anything is generated or trained: times and tasks against a study."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sadm_ray.config import TaskSettings
from sadm_ray.data.shards.prepared_study import Slots, Study, read_slots
from sadm_ray.errors import ConfigError
from sadm_ray.generate.request import query_of_task

FAR = 1000.0
"""A time that is farther from a study's scans than so many of its spans says nothing that a model could know."""

_FIRST = 64
"""Subjects that are read first: mostly they can answer every task, and a large study need not be read."""


@dataclass(frozen=True)
class TimeLimits:
    """The times of a study's scans, and how far from them a time may be requested; all in the study's unit."""

    first: float
    last: float
    reach: float
    unit: str

    @classmethod
    def of(cls, study: Study, time_scale: float) -> TimeLimits | None:
        """The limits of a study; None where no subject can be read.

        Args:
            time_scale: what the model divides times by. It stands in for the span where all scans are of one time, and
                is then taken generously, as it may not be set.
        """
        slots = read_slots(study, [name for names in study.subjects.values() for name in names])
        times = [each.times[each.present] for each in slots.values()]
        if not times:
            return None
        first, last = (float(bound(np.concatenate(times))) for bound in (np.min, np.max))
        return cls(first, last, FAR * (last - first or FAR * time_scale), study.time_unit)

    def beyond(self, times: Iterable[float]) -> str:
        """What is wrong with the first time that is too far away, and the mend; empty if none is."""
        low, high = self.first - self.reach, self.last + self.reach
        for time in times:
            if not low <= time <= high:
                return (
                    f"{time:.12g} is too far from the scans of the study, which are from {self.first:.12g} to "
                    f"{self.last:.12g} ({self.unit}); take a time between {low:.12g} and {high:.12g}"
                )
        return ""


def require_answerable(study: Study, subjects: Sequence[str], tasks: Sequence[TaskSettings], key: str) -> None:
    """Refuse a task for which no subject has the frames.

    Args:
        key: the setting of the tasks.

    Raises:
        ConfigError: it names the task, and what is missing.
    """
    slots: dict[str, Slots] = {}
    for some in (subjects[:_FIRST], subjects[_FIRST:]):
        slots |= read_slots(study, some)
        tasks = [task for task in tasks if all(_reason(task, each) for each in slots.values())]
        if not tasks:
            return
    if slots:
        longest = max(len(each.present) for each in slots.values())
        raise ConfigError(
            f"{key}: no subject can answer '{tasks[0].name}': the first of {len(slots)} "
            f"{_reason(tasks[0], next(iter(slots.values())))}, and the longest sequence has {longest} frames; correct "
            "its observed and targets, or remove the task"
        )


def unanswered(study: Study, subjects: Collection[str], tasks: Sequence[TaskSettings]) -> list[str]:
    """A line for each subject and task for which it lacks the frames."""
    slots = read_slots(study, subjects)
    reasons = [(name, _reason(task, slots[name])) for name in subjects if name in slots for task in tasks]
    return [f"subject {name} {reason}" for name, reason in reasons if reason]


def can_score(study: Study, subjects: Collection[str], tasks: Sequence[TaskSettings]) -> bool:
    """Whether any of the subjects can answer any of the tasks, and was scanned at a target."""
    slots = read_slots(study, subjects).values()
    return any(
        each.present[list(query_of_task(task, each.present, each.times).targets)].any()
        for each in slots
        for task in tasks
        if not _reason(task, each)
    )


def _reason(task: TaskSettings, slots: Slots) -> str:
    """Why a subject cannot answer a task; empty if it can."""
    try:
        query_of_task(task, slots.present, slots.times)
    except ValueError as error:
        return str(error)
    return ""
