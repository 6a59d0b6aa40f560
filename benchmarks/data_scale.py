"""Whether memory grows with the number of subjects: peaks of whole process trees, each preparing a study of its own.

The subjects are small (three visits of 16 × 16 × 8), so that the memory kept a subject shows, not that of a volume.
Peak memory is the largest sum of PSS, in which pages that processes share count once, over the driver, Ray's own
processes and its workers. It is sampled twice a second.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.data_study import local_ray, manifest_settings, write_manifest
from benchmarks.figures import say
from sadm_ray.data.find import find_subjects
from sadm_ray.data.shards.prepare import prepare_study

_SHAPE = (8, 16, 16)
_CPUS = 2
_SAMPLE_SECONDS = 0.5


def scale(subjects: int) -> None:
    """Peaks at a tenth of `subjects` and at all of them."""
    small = subjects // 10
    peaks = {count: _measure(count) for count in (small, subjects)}
    for count, peak in peaks.items():
        say(f"preparing {count:,} subjects: peak memory of all processes", peak / 1e9, "GB", "lower")
    growth = (peaks[subjects] - peaks[small]) / (subjects - small)
    say("preparing: memory that a subject more takes", growth / 1e3, "kB", "lower")
    figure = f"preparing: peak memory at {subjects:,} subjects over that at {small:,}"
    say(figure, peaks[subjects] / peaks[small], "1", "lower", 1.3)


def _measure(subjects: int) -> int:
    """The peak in bytes; says the times."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_manifest(Path(folder, "study"), subjects, (16, 16, 8))
        start = time.perf_counter()
        catalog = find_subjects(str(manifest), manifest_settings(manifest, _SHAPE).data)
        seconds = time.perf_counter() - start
        assert len(catalog.subjects) == subjects
        say(f"catalog of {subjects:,} subjects, a subject", seconds / subjects * 1e3, "ms", "lower")
        del catalog
        command = [sys.executable, "-m", "benchmarks.data_scale", str(manifest), str(Path(folder, "out"))]
        start = time.perf_counter()
        with subprocess.Popen(command) as driver:  # noqa: S603
            peak, processes = max(_samples(driver))
        assert driver.returncode == 0
        print(f"{subjects} subjects: peak with {processes} processes", file=sys.stderr, flush=True)
        seconds = time.perf_counter() - start
        say(f"preparing {subjects:,} subjects, a subject, with Ray's start", seconds / subjects * 1e3, "ms", "lower")
        return peak


def _samples(driver: subprocess.Popen[bytes]) -> Iterator[tuple[int, int]]:
    """The memory and the number of all processes, again and again."""
    while driver.poll() is None:
        sizes = [_pss(process) for process in _tree(driver.pid)]
        yield sum(sizes), len(sizes)
        time.sleep(_SAMPLE_SECONDS)


def _tree(process: int) -> Iterator[int]:
    """A process and all below it. Those that end meanwhile are left out."""
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue
        for child in found:
            yield from _tree(int(child))


def _pss(process: int) -> int:
    try:
        match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) * 1024 if match else 0


def _prepare(manifest: str, out: str) -> None:
    """The measured work, in a process of its own."""
    with local_ray(_CPUS):
        study = prepare_study(manifest_settings(Path(manifest), _SHAPE), manifest, out)
    assert not study.problems, study.problems[:3]


if __name__ == "__main__":
    _prepare(*sys.argv[1:])
