"""A user's request for one subject, and the query to the model that it becomes: observed scans and target times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from sadm_ray.config import CovariateSettings, TaskSettings
from sadm_ray.data.load.collate import planned_values
from sadm_ray.data.load.target_sampling import nearest_present
from sadm_ray.generate.bids_names import bare_label
from sadm_ray.generate.given_covariates import Given, request_name

NO_SLOT = -1
_SAME_TIME = 1e-4
"""A time that is given so near to a slot's, absolutely or relatively, is that slot's: people round what they type."""
_SHARE = 0.1
"""… but not if it differs by more than this share of the least time between two slots."""


@dataclass(frozen=True)
class Query:
    """What the model is asked about one subject: which scans are observed, and the times to predict.

    `targets` are slots of its sequence (`NO_SLOT` for a time without one), `target_times` their times. A target may be
    a slot that was scanned (then there is a truth to compare with) or one that never was. `given` are covariates of the
    wanted visits that replace what the study's tables say of them.
    """

    observed: Bool[np.ndarray, " t"]
    targets: tuple[int, ...]
    target_times: Float64[np.ndarray, " m"]
    given: Given = field(default_factory=dict)

    def planned(self, row: Mapping[str, Any], covariates: Sequence[CovariateSettings]) -> list[dict[str, float | str]]:
        """Under which planned covariates each target is generated, by name; what is not known is missing.

        Args:
            row: the subject (`subject_row.parse_row`).
            covariates: those of the model.
        """
        stored = json.loads(row["covariates"])
        slots = [None if slot == NO_SLOT else slot for slot in self.targets]
        return [{**planned_values(stored, slot, covariates), **self.given} for slot in slots]


@dataclass(frozen=True)
class Request:
    """What a user wants of one subject under one name, which is also in the names of files: the targets of a task; or
    else the slots that were never scanned (`missing`) and some `times`.

    `skip_scanned`: a time at which there is a scan is not generated; otherwise it is, and that scan is not observed.
    `observed`: times of the scans that may be observed; None for all of them.
    `label`: of the name in the names of files (`bids_names.bids_labels`).
    `given`: covariates of the wanted visits (`given_covariates`). `paired`: the name that all requests share which
    differ in what is given alone: their samples have the same noise.
    """

    name: str
    samples: int
    seed: int
    task: TaskSettings | None = None
    missing: bool = False
    times: tuple[float, ...] = ()
    skip_scanned: bool = True
    observed: tuple[float, ...] | None = None
    label: str = ""
    given: Given = field(default_factory=dict)
    paired: str = ""

    @property
    def file_label(self) -> str:
        """The label; where none was given, the name in letters and digits."""
        return self.label or bare_label(self.name)

    def query(self, row: Mapping[str, Any]) -> Query:
        """The query for a subject's row (`subject_row.parse_row`); without targets where there is nothing to generate.

        Raises:
            ValueError: it cannot be answered for this subject.
        """
        if self.task is not None:
            return query_of_task(self.task, row["present"], row["times"])
        return replace(self._visits(row["present"], row["times"].astype(np.float64)), given=self.given)

    def to_json(self) -> dict[str, Any]:
        """Everything that decides the generated volumes; without what is given where nothing is, as it used to be."""
        task = None if self.task is None else self.task.model_dump(mode="json")
        unsaid = () if self.given else ("given", "paired")
        return {key: value for key, value in {**vars(self), "task": task}.items() if key not in unsaid}

    def under(self, given: Given) -> Request:
        """The same request under covariates of the wanted visits; their samples have its noise."""
        return replace(self, name=request_name(self.name, given), given=given, paired=self.name) if given else self

    def sample_seed(self, subject: str, sample: int) -> int:
        """The seed of one of its samples."""
        return sample_seed(self.seed, subject, self.paired or self.name, sample)

    def _visits(self, present: Bool[np.ndarray, " t"], times: Float[np.ndarray, " t"]) -> Query:
        observed = present.copy()
        if self.observed is not None:
            for time in self.observed:
                if not (present & _same(times, time)).any():
                    raise ValueError(f"has no scan at the time {time:.12g}, which is to be observed")
            observed &= np.any([_same(times, time) for time in self.observed], axis=0)
        targets: list[tuple[int, float]] = []
        if self.missing:
            targets += [(int(slot), float(times[slot])) for slot in np.flatnonzero(~present)]
        for time in self.times:
            here = np.flatnonzero(_same(times, time))
            scanned = here[present[here]]
            if len(scanned) and self.skip_scanned:
                continue
            observed[scanned] = False
            target = (int(here[0]) if len(here) else NO_SLOT, time)
            if not any(target == other or target[0] == other[0] != NO_SLOT for other in targets):
                targets.append(target)
        if not observed.any():
            raise ValueError("has no scan that may be observed")
        targets.sort(key=lambda target: target[1])
        for (_, earlier), (_, later) in pairwise(targets):
            if np.float32(earlier) == np.float32(later):  # as the model takes them
                raise ValueError(f"has the targets {earlier:.12g} and {later:.12g}, which are one time to the model")
        slots, target_times = zip(*targets, strict=True) if targets else ((), ())
        return Query(observed, tuple(slots), np.asarray(target_times, dtype=np.float64))


def query_of_task(task: TaskSettings, present: Bool[np.ndarray, " t"], times: Float[np.ndarray, " t"]) -> Query:
    """The query of `task` for a subject with the slots `present`.

    A slot that the task observes and the subject lacks is replaced by the nearest one that it has, but never by a
    target: targets are not observed.

    Raises:
        ValueError: nothing is left to observe, or the sequence is too short for the task.
    """
    slots = len(present)
    outside = [frame for frame in (*task.observed, *task.targets) if not -slots <= frame < slots]
    if outside:
        raise ValueError(f"has {slots} frames, hence no frame {outside[0]} for task '{task.name}'")
    targets = tuple(dict.fromkeys(target % slots for target in task.targets))
    observed = np.zeros(slots, dtype=bool)
    observed[[nearest_present(frame, present.tolist()) for frame in task.observed]] = True
    observed[list(targets)] = False
    if not observed.any():
        raise ValueError(f"has no frame that task '{task.name}' may observe")
    return Query(observed, targets, np.asarray(times[list(targets)], dtype=np.float64))


def sample_seed(seed: int, subject: str, task: str, sample: int) -> int:
    """The seed of one sample: it does not depend on the batch, the actor or the order of the work."""
    digest = hashlib.sha256(f"{seed}/{subject}/{task}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _same(times: Float[np.ndarray, " t"], time: float) -> Bool[np.ndarray, " t"]:
    """Which slots, one at most, have this time."""
    gap = np.abs(times - time)
    least = np.diff(np.sort(times)).min(initial=np.inf)
    reach = min(_SAME_TIME * (1 + abs(time)), _SHARE * least) if least else _SAME_TIME
    return (gap <= reach) & (gap == gap.min())
