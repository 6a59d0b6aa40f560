"""The history of a sweep's trials, written by the driver, from which a killed sweep is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sadm_ray.config.renamed_settings import current_name
from sadm_ray.tune.json_lines import JsonLines
from sadm_ray.tune.sampling_space import Point

Report = dict[str, float]


@dataclass
class Trial:
    """A trial: its point and its reports, rung by rung. One that has not `ended` was killed, or failed."""

    name: str
    point: Point
    reports: list[Report] = field(default_factory=list)
    ended: bool = False


class History:
    """All trials of a sweep, in the order of their start; in a file (`JsonLines`, a line per event) and in memory.

    Ray Tune's own state is not used: it is saved only now and then and not atomically, and without the scheduler's
    rungs.
    """

    def __init__(self, file: Path) -> None:
        self._journal = JsonLines(file)
        self._trials: dict[str, Trial] = {}
        for entry in self._journal.entries():
            self._apply(entry)
        self._name_of: dict[str, str] = {}

    @property
    def ended(self) -> list[Trial]:
        """The trials that ended, at the last subject or stopped early."""
        return [trial for trial in self._trials.values() if trial.ended]

    @property
    def unfinished(self) -> list[Trial]:
        """The trials that were started and have to be repeated."""
        return [trial for trial in self._trials.values() if not trial.ended]

    def start(self, trial_id: str, point: Point) -> None:
        """Ray starts or repeats a trial. An unfinished trial of a killed sweep with this point is continued.

        It keeps its old name, under which it is in MLflow.
        """
        if trial_id not in self._name_of:
            taken = set(self._name_of.values())
            left = (trial.name for trial in self.unfinished if trial.point == point and trial.name not in taken)
            self._name_of[trial_id] = next(left, trial_id)
        self._write({"trial": self._name_of[trial_id], "point": point})

    def report(self, trial_id: str, report: Mapping[str, float]) -> None:
        """The trial has reported."""
        self._write({"trial": self._name_of[trial_id], "report": dict(report)})

    def of(self, trial_id: str) -> Trial:
        """The trial with this id of Ray Tune."""
        return self._trials[self._name_of[trial_id]]

    def end(self, trial_id: str) -> None:
        """The trial has ended."""
        self._write({"trial": self._name_of[trial_id], "ended": True})

    def _write(self, entry: dict) -> None:
        self._journal.append(entry)
        self._apply(entry)

    def _apply(self, entry: dict) -> None:
        name = entry["trial"]
        if "point" in entry:
            point = {current_name(key): value for key, value in entry["point"].items()}
            self._trials.setdefault(name, Trial(name, point)).reports.clear()
        elif "report" in entry:
            self._trials[name].reports.append(entry["report"])
        else:
            self._trials[name].ended = True
