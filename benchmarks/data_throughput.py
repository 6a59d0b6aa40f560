"""The cost of Ray: `prepare_study` against a plain loop over the same functions in one process.

Both list the study, plan, make the same shards and write the table of row locations; both start from an empty folder.
Ray is up before the clock starts. Its workers and Ray Data's own actors are not: their start shows in the time until
the first shard, and ratios are given with it and without it. A subject is three visits of 216 × 256 × 10, the size of
ACDC's own frames, on a grid of 8 × 32 × 32: some 50 ms of work, near the least that the real ones of the round trip
take (33 to 1,260 ms). The ways take turns, since a machine's speed varies; the figures are medians over the rounds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.data_study import local_ray, manifest_settings, write_manifest
from benchmarks.figures import say
from sadm_ray.config import Settings
from sadm_ray.data.find import find_subjects
from sadm_ray.data.shards.prepare import prepare_study
from sadm_ray.data.shards.prepared_study import SHARDS_FOLDER, Study, write_row_locations
from sadm_ray.data.shards.shard_writer import make_shard, plan_shards

_ROUNDS = 3
_TARGET = {1: 0.9, 2: 1.7}
"""By CPUs: how many times as fast as the loop."""

Way = Callable[[Settings, str, str], Study]
"""Prepares the study of the settings at a root into a folder."""


@dataclass(frozen=True)
class Times:
    """Seconds until the first shard was written, and from then on until the end."""

    first: float
    rest: float

    @property
    def all(self) -> float:
        """Seconds from the call to its return."""
        return self.first + self.rest


def throughput(subjects: int) -> None:
    """Subjects a second of the loop, and how many times as fast Ray is with one CPU and with two."""
    ways: dict[int, Way] = {0: _loop, **dict.fromkeys(_TARGET, prepare_study)}
    rounds: list[dict[int, Times]] = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_manifest(Path(folder, "study"), subjects, (216, 256, 10))
        settings = manifest_settings(manifest, (8, 32, 32))
        for number in range(_ROUNDS):
            rounds.append({cpus: _time(way, cpus, settings, str(manifest), folder) for cpus, way in ways.items()})
            speeds = ", ".join(f"{subjects / times.all:.1f}" for times in rounds[-1].values())
            print(f"round {number + 1} of {_ROUNDS}: {speeds} subjects/s (loop, Ray)", file=sys.stderr, flush=True)
    say("preparing in a plain loop", median(subjects / times[0].all for times in rounds), "subjects/s", "higher")
    for cpus, target in _TARGET.items():
        name = f"preparing by Ray with {cpus} CPU{'s' * (cpus > 1)}"
        say(f"{name}: first shard", median(times[cpus].first for times in rounds), "s", "lower")
        ratio = median(times[0].rest / times[cpus].rest for times in rounds)
        say(f"{name}, from then on: times as fast as a plain loop", ratio, "1", "higher", target)
        ratio = median(times[0].all / times[cpus].all for times in rounds)
        say(f"{name}: times as fast as a plain loop", ratio, "1", "higher", target)


def _time(way: Way, cpus: int, settings: Settings, root: str, folder: str) -> Times:
    with tempfile.TemporaryDirectory(dir=folder) as out, local_ray(cpus) if cpus else nullcontext():
        start = time.time()
        study = way(settings, root, out)
        end = time.time()
        assert not study.problems, study.problems[:3]
        first = min(shard.stat().st_mtime for shard in Path(out, SHARDS_FOLDER).iterdir())
    return Times(first - start, end - first)


def _loop(settings: Settings, root: str, out: str) -> Study:
    """What `prepare_study` does, without Ray."""
    catalog = find_subjects(root, settings.data)
    facts = []
    for shard in plan_shards(catalog.subjects, settings.data, {}):
        summary = make_shard(shard, catalog.folder, out, settings.data)
        facts += [{**fact, "part": summary["part"], "row": row} for row, fact in enumerate(summary["rows"])]
    names = tuple(fact["subject"] for fact in facts)
    places = write_row_locations(out, facts)
    study = Study(out, "", "", "", None, settings.data.shape, "", {"train": names}, 0.0, places=places)
    study.write()
    return study
