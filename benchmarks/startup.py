"""The time of small runs beside another checkout: `sadm-ray train` of six steps, `sadm-ray generate` of two subjects.

    python -m benchmarks.startup --beside ../other     both by turns, three times (some minutes on 2 cores)

Nearly all of such a run is start-up. Each checkout prepares the same small phantom once, then trains and generates
anew in every round. Prints the ratios of the medians, this checkout over the other: of the seconds, and of the CPU
seconds of all processes together, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from benchmarks.figures import say

_POLL_SECONDS = 0.1
_SETTINGS = {
    "phantom": {"subjects": 12, "shape": [8, 32, 32]},
    "data": {"shape": [4, 16, 16], "split": {"method": "balanced", "val": 0.2, "test": 0.17}},  # two test subjects
    "train": {"steps": 6, "checkpoint_every": 6, "log_every": 1},
    "ray": {"address": "local"},
}
_HERE = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, required=True, metavar="FOLDER", help="another checkout")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--processes", action="store_true", help="list the processes of each command and their CPU time"
    )
    options = parser.parse_args()
    checkouts = {"this": _HERE, "other": options.beside.resolve()}
    spent: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, checkout in checkouts.items():
            file = Path(folder) / f"{name}.json"  # which is YAML too
            file.write_text(json.dumps({"run": {"name": name, "dir": folder}, **_SETTINGS}))
            _run(checkout, "prepare", file)
        for _ in range(options.repetitions):
            for name, checkout in checkouts.items():
                for made in ("model", "model.ray", "generated"):
                    shutil.rmtree(Path(folder) / name / made, ignore_errors=True)
                for command in ("train", "generate"):
                    seconds, processes = _run(checkout, command, Path(folder) / f"{name}.json")
                    cpu = sum(processes.values())
                    spent.setdefault((name, command), []).append((seconds, cpu))
                    print(f"{name} {command}: {seconds:.1f} s, {cpu:.1f} CPU s", file=sys.stderr, flush=True)
                    for process, each in processes.items() if options.processes else ():
                        print(f"  {each:5.1f}  {process}", file=sys.stderr)
    for command in ("train", "generate"):
        for place, what in enumerate(("seconds", "CPU seconds")):
            this, other = (median(run[place] for run in spent[name, command]) for name in checkouts)
            say(f"startup: {what} of `{command}`", this, "s", "lower")
            say(f"startup: {what} of `{command}`, this over the other", this / other, "1", "lower", 0.5)


def _run(checkout: Path, command: str, file: Path) -> tuple[float, dict[str, float]]:
    """Run a command of a checkout: its seconds, and the CPU seconds of each process of its tree."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "sadm_ray", command, "--config", str(file)]
    start = time.monotonic()
    with tempfile.TemporaryFile() as output:
        begun = subprocess.Popen(arguments, env=environment, cwd=file.parent, stdout=output, stderr=output)  # noqa: S603
        processes: dict[tuple[int, float], tuple[str, float]] = {}
        while begun.poll() is None:
            _look(psutil.Process(begun.pid), processes)
            time.sleep(_POLL_SECONDS)
        seconds = time.monotonic() - start
        if begun.returncode:
            output.seek(0)
            sys.exit(f"{checkout}: {command} failed\n{output.read().decode(errors='replace')}")
    return seconds, {f"{pid} {name}": cpu for (pid, _), (name, cpu) in processes.items()}


def _look(root: psutil.Process, processes: dict[tuple[int, float], tuple[str, float]]) -> None:
    """Note the CPU time of all processes below; one that ends is seen for the last time a moment before."""
    try:
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return
    for process in tree:
        try:
            times, words = process.cpu_times(), process.cmdline()
            if words:
                name = next((Path(word).name for word in words if word.endswith(".py")), Path(words[0]).name)
                processes[process.pid, process.create_time()] = name, times.user + times.system
        except psutil.Error:  # it has just ended
            continue


if __name__ == "__main__":
    main()
