"""Scores of damaged inputs among good ones, through the command: each is reported, and nothing else happens."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

from sadm_ray.data.shards.prepared_study import read_study, row_locations
from tests.data.damage import KINDS
from tests.data.patients import write_info

pytestmark = [pytest.mark.ray, pytest.mark.real_data, pytest.mark.slow]

LIMIT = 2e9  # bytes that any process may take


def write_damaged(target: Path, good: Path, number: int) -> None:
    kinds = sorted(KINDS)
    KINDS[kinds[number % len(kinds)]](target, good, np.random.default_rng(number))


def prepare(run: Path, *overrides: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run `sadm-ray prepare`; also the most memory (bytes) that one of its processes had."""
    command = [sys.executable, "-m", "sadm_ray", "prepare", f"run.dir={run}", "run.name=hostile", *overrides]
    peak, stop = [0.0], threading.Event()
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as job:
        watch = threading.Thread(target=_watch, args=(job.pid, peak, stop))
        watch.start()
        out, err = job.communicate(timeout=600)
        stop.set()
        watch.join()
    return subprocess.CompletedProcess(command, job.returncode, out, err), peak[0]


def _watch(pid: int, peak: list[float], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            private = [info.rss - info.shared for info in (each.memory_info() for each in family)]
            peak[0] = max(peak[0], *private)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
        time.sleep(0.05)


def smaller(files: list[Path], folder: Path) -> list[Path]:
    """Every second voxel in plane, of every second frame: the test is of how many files there are."""
    folder.mkdir()
    made = []
    for number, file in enumerate(files):
        image = nib.load(file)
        steps = (slice(None, None, 2), slice(None, None, 2), slice(None), slice(None, None, 2))[: image.ndim]
        made.append(folder / f"{number}.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[steps], image.affine), made[-1])
    return made


def visit_of(file: Path, visit: int) -> Path:
    """The scan, or for later visits another one on its grid, beside it."""
    if visit == 0:
        return file
    made = file.with_name(f"{visit}-{file.name}")
    if not made.exists():
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + visit, image.affine), made)
    return made


def everything(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def problems_of(problems: tuple[str, ...], file: Path) -> list[str]:
    return [line for line in problems if f" {file}: " in line]


def test_damaged_visits_of_a_manifest(tmp_path: Path, real_data: Path) -> None:
    """Each subject has two good visits and a damaged one: it stays, without that one."""
    source = smaller(sorted((real_data / "acdc_native_edes").glob("*/*_frame??.nii.gz")), tmp_path / "good")
    root, outside = tmp_path / "study", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    rows, damaged_files = [], {}
    for number in range(100):
        good = source[number % len(source)]
        for visit in range(3):
            file = root / f"s{number:03d}_{visit}.nii.gz"
            if visit == 1 and number >= 10:  # the first ten are all good
                write_damaged(file, good, number)
                damaged_files[f"s{number:03d}"] = file
            else:
                file.symlink_to(visit_of(good, visit))
            rows.append((f"s{number:03d}", file.name, visit))
    names = ["../../escaped", "/etc/passwd", "..", ".hidden", "a/b", "x" * 300, "ä ö", "", "-rf", "a\nb"]
    rows += [(name, "s000_0.nii.gz", 0) for name in names]
    paths = ["../outside/scan.nii.gz", "/no/such/scan.nii.gz", "nowhere.nii.gz", "file:///etc/passwd"]
    rows += [(f"p{number}", path, 0) for number, path in enumerate(paths)]
    with (root / "study.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("subject", "path", "time"), *rows])
    before = everything(root) | everything(outside)

    done, peak = prepare(
        tmp_path / "run", f"data.root={root / 'study.csv'}", "data.layout=manifest", "data.frames=null",
        "data.shape=[8,32,32]",
    )  # fmt: skip

    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    study = read_study(str(tmp_path / "run" / "hostile" / "shards"))
    assert set(row_locations(study)) == {f"s{number:03d}" for number in range(100)}
    for subject, file in damaged_files.items():
        assert len(problems_of(study.problems, file)) == 1, (subject, file, problems_of(study.problems, file))
    for line in study.problems:
        assert "\n" not in line
        assert line in done.stderr
    assert len(study.problems) == len(damaged_files) + len(names) + len(paths), Counter(
        line for line in study.problems if not any(str(file) in line for file in damaged_files.values())
    )
    assert everything(root) | everything(outside) == before
    assert {path.name for path in tmp_path.iterdir()} == {"study", "outside", "run", "good"}
    assert peak < LIMIT


def test_damaged_cines(tmp_path: Path, real_data: Path) -> None:
    """A patient with a damaged cine, or whose Info.cfg is none, is left out; the others are prepared."""
    root = tmp_path / "study"
    small = smaller(sorted((real_data / "acdc" / "training").glob("*/*_4d.nii.gz"))[:5], tmp_path / "good")
    damaged_files, good = {}, set()
    for number in range(100):
        name = f"patient{number:03d}"
        (root / name).mkdir(parents=True)
        file = root / name / f"{name}_4d.nii.gz"
        write_info(root / name, ed=1, es=5, group="NOR")
        if number % 23 == 0:
            file.symlink_to(small[number % len(small)])
            good.add(name)
        else:
            write_damaged(file, small[number % len(small)], number)
            damaged_files[name] = file
    texts = [
        "",
        "ED: 1",
        "ED: one\nES: 5",
        "ED: 0\nES: 5",
        "ED: 99\nES: 5",
        "ED: 5\nES: 5",
        "\0" * 999,
        "ED: 1\nES: -3",
    ]
    for number, text in enumerate(texts, 100):
        name = f"patient{number:03d}"
        (root / name).mkdir()
        (root / name / f"{name}_4d.nii.gz").symlink_to(small[0])
        (root / name / "Info.cfg").write_text(text)
        damaged_files[name] = root / name

    done, peak = prepare(tmp_path / "run", f"data.root={root}", "data.shape=[8,32,32]", "data.frames=null")

    assert done.returncode == 3, done.stderr
    study = read_study(str(tmp_path / "run" / "hostile" / "shards"))
    assert set(row_locations(study)) == good
    for name, file in damaged_files.items():
        lines = [line for line in study.problems if line.startswith(f"{name}: ")]
        assert len(lines) >= 1, name
        assert all(str(root / name) in line for line in lines), lines
        if file.suffix == ".gz":
            assert len(lines) == 1, lines
    assert peak < LIMIT
    content = json.loads((tmp_path / "run" / "hostile" / "shards" / "_study.json").read_text())
    assert len(content["problems"]) == len(study.problems)
