"""Runs a benchmark, records its figures in `benchmarks/results/` and makes the tables of the documents from them.

    python -m benchmarks.record core                   all parts
    python -m benchmarks.record core --part monai      what stands behind the name goes to the benchmark

What it prints is recorded even if it fails later on, beside older figures; the exit code is the benchmark's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.figures import Figure
from benchmarks.recorded import RESULTS, Machine, Run, add_run
from benchmarks.tables import rewrite_documents

ROOT = Path(__file__).parents[1]
_CODE = ("sadm_ray", "configs", "benchmarks/*.py", "pyproject.toml", "constraints.txt")
_PATH = re.compile(r"(^|(?<=[=,\[']))(/|~|\.\.?/)[^,\]']+")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="another file to record in; the documents then stay as they are")
    parser.add_argument("--commit", help="which commit this is, where there is no git")
    parser.add_argument("benchmark", help="such as core")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the benchmark")
    options = parser.parse_args()
    name, arguments = options.benchmark, options.options
    if not (ROOT / "benchmarks" / f"{name}.py").is_file():
        parser.error(f"there is no benchmarks/{name}.py")
    commit = options.commit or _commit()
    figures, code = _figures([sys.executable, "-m", f"benchmarks.{name}", *arguments])
    if figures:
        command = " ".join(["python", "-m", f"benchmarks.{name}", *_without_paths(arguments)])
        run = Run(command, commit, datetime.now(UTC).date().isoformat(), _machine(), tuple(figures))
        add_run(options.out or RESULTS / f"{name}.json", run, whole=code == 0)
        if options.out is None:
            rewrite_documents()
    sys.exit(code)


def _figures(command: Sequence[str]) -> tuple[list[Figure], int]:
    """What a benchmark prints, which is passed on, and its exit code."""
    figures = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:  # noqa: S603
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.startswith('{"figure"'):
                figures.append(Figure(**json.loads(line)))
    return figures, process.returncode


def _without_paths(arguments: Sequence[str]) -> list[str]:
    """Paths of this machine stay out of the repository."""
    return [_PATH.sub("…", argument) for argument in arguments]


def _commit() -> str:
    """The commit that is checked out, and whether the code differs from it."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", *_CODE)
    return f"{commit} with changes" if changed else commit


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError):
        sys.exit("benchmarks.record: git knows no commit here; name it: --commit HASH")


def _machine() -> Machine:
    """This machine."""
    information = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)", information.read_text(), re.MULTILINE) if information.exists() else None
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return Machine(found[1] if found else "", os.cpu_count() or 0, gpu, torch.__version__.partition("+")[0])


if __name__ == "__main__":
    main()
