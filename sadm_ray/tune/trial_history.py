"""What became of a sweep's trials, written down by the driver, so that a sweep that was killed goes on."""

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
    """A trial: its point and what it reported, rung by rung. One without end was killed, or failed."""

    name: str
    point: Point
    reports: list[Report] = field(default_factory=list)
    ended: bool = False


class History:
    """All trials of a sweep, in the order in which they began; in a file (`JsonLines`) and in memory.

    Ray has a state of its own to restore, but it is copied now and then and not as a whole, and it lacks the rungs of
    the scheduler. This has one line for each thing that happened.
    """

    def __init__(self, file: Path) -> None:
        self._journal = JsonLines(file)
        self._trials: dict[str, Trial] = {}
        for entry in self._journal.entries():
            self._apply(entry)
        self._here: dict[str, str] = {}

    @property
    def ended(self) -> list[Trial]:
        """Those that came to an end, at the last subject or stopped early."""
        return [trial for trial in self._trials.values() if trial.ended]

    @property
    def unfinished(self) -> list[Trial]:
        """Those that were begun and have to be run again."""
        return [trial for trial in self._trials.values() if not trial.ended]

    def start(self, trial_id: str, point: Point) -> None:
        """Ray begins a trial, or begins it again after a failure: one of a killed sweep with this point, or a new one.

        That keeps its old name, by which MLflow knows it.
        """
        if trial_id not in self._here:
            taken = set(self._here.values())
            left = (trial.name for trial in self.unfinished if trial.point == point and trial.name not in taken)
            self._here[trial_id] = next(left, trial_id)
        self._write({"trial": self._here[trial_id], "point": point})

    def report(self, trial_id: str, report: Mapping[str, float]) -> None:
        """It has reported."""
        self._write({"trial": self._here[trial_id], "report": dict(report)})

    def of(self, trial_id: str) -> Trial:
        """What Ray calls so."""
        return self._trials[self._here[trial_id]]

    def end(self, trial_id: str) -> None:
        """It came to its end."""
        self._write({"trial": self._here[trial_id], "ended": True})

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
