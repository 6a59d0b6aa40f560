"""What Ray costs: `prepare_study` beside a plain loop over the same functions in one process.

Both list the study, plan, make the same shards and write the table of places; both start from an empty folder. Ray is
up before the clock starts, its workers are not. A subject is three visits of 48 × 48 × 12 on a grid of 8 × 32 × 32: some
10 ms, which is less than real ones take, so that Ray has it harder here. All ways go in turns, since machines have moods;
the figures are the medians of each round's ratios.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from json import loads
from pathlib import Path
from statistics import median

from benchmarks.data_study import local_ray, manifest_settings, write_manifest
from benchmarks.figures import say
from sadm_ray.config import Settings
from sadm_ray.data.catalog import find_subjects
from sadm_ray.data.parts import make_part, plan_parts
from sadm_ray.data.prepare import prepare_study
from sadm_ray.data.storage import Storage
from sadm_ray.data.study import Study, write_places

_ROUNDS = 3
_REACH = {1: 0.9, 2: 1.7}
"""By CPUs: how many times as fast as the loop."""

Way = Callable[[Settings, str, str], float]
"""Prepares the study of the settings at a root into a folder, and returns the seconds that took."""


def throughput(subjects: int) -> None:
    """Subjects a second of the loop, and of Ray with one CPU and with two over that."""
    ways: dict[int, Way] = {0: _loop} | {cpus: partial(_ray, cpus) for cpus in _REACH}
    rounds: list[dict[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_manifest(Path(folder, "study"), subjects, (48, 48, 12))
        settings = manifest_settings(manifest, (8, 32, 32))
        for number in range(_ROUNDS):
            seconds = {}
            for cpus, way in ways.items():
                with tempfile.TemporaryDirectory(dir=folder) as out:
                    seconds[cpus] = way(settings, str(manifest), out)
            rounds.append(seconds)
            told = ", ".join(f"{subjects / spent:.1f}" for spent in seconds.values())
            print(f"round {number + 1} of {_ROUNDS}: {told} subjects/s (loop, Ray)", file=sys.stderr, flush=True)
    rate = median(subjects / seconds[0] for seconds in rounds)
    say("preparing in a plain loop", rate, "subjects/s", "higher")
    for cpus, reach in _REACH.items():
        ratio = median(seconds[0] / seconds[cpus] for seconds in rounds)
        say(f"preparing by Ray with {cpus} CPUs, times as fast as a plain loop", ratio, "1", "higher", reach)


def _ray(cpus: int, settings: Settings, root: str, out: str) -> float:
    with local_ray(cpus):
        start = time.perf_counter()
        study = prepare_study(settings, root, out)
        seconds = time.perf_counter() - start
    assert not study.problems, study.problems[:3]
    return seconds


def _loop(settings: Settings, root: str, out: str) -> float:
    """What `prepare_study` does, without Ray."""
    start = time.perf_counter()
    catalog = find_subjects(root, settings.data)
    facts = []
    for part in plan_parts(catalog.subjects, settings.data, {}):
        item = {"part": pickle.dumps(part)}
        summary = loads(make_part(item, catalog.folder, out, settings.data)["summary"])
        facts += [{**fact, "part": part.file, "row": place} for place, fact in enumerate(summary["rows"])]
    write_places(Study(Storage(out).location, "", "", "", None, settings.data.shape, "", {}, 0.0), facts)
    assert len(facts) == len(catalog.subjects)
    return time.perf_counter() - start
