"""The figures that were recorded: `benchmarks/results/<benchmark>.json`, each by the newest run that took it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.figures import Figure

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Machine:
    """Where a run was; what was not noted is empty."""

    cpu: str = ""
    cores: int = 0
    gpu: str = ""
    torch: str = ""

    def __str__(self) -> str:
        cores = f"{self.cores} cores" if self.cores else ""
        return ", ".join(filter(None, [self.cpu, cores, self.gpu, f"torch {self.torch}" if self.torch else ""]))


@dataclass(frozen=True)
class Run:
    """What one command measured, on one day and one machine."""

    command: str
    commit: str
    date: str
    machine: Machine
    figures: tuple[Figure, ...]

    def without(self, taken: set[str]) -> Run:
        """Without the figures of these names."""
        kept = tuple(figure for figure in self.figures if figure.figure not in taken)
        return Run(self.command, self.commit, self.date, self.machine, kept)


def read_runs(file: Path) -> list[Run]:
    """The runs of a file, the newest last; none if there is no such file."""
    if not file.exists():
        return []
    trees = json.loads(file.read_text(encoding="utf-8"))
    return [
        Run(**{
            **tree,
            "machine": Machine(**tree["machine"]),
            "figures": tuple(Figure(**figure) for figure in tree["figures"]),
        })
        for tree in trees
    ]  # fmt: skip


def add_run(file: Path, run: Run, *, whole: bool = True) -> None:
    """Record a run: its figures replace those of the same name.

    Args:
        whole: the command came to its end; what it measured before and no longer does goes too.
    """
    taken = {figure.figure for figure in run.figures}
    older = [each.without(taken) for each in read_runs(file) if not (whole and each.command == run.command)]
    runs = [*(each for each in older if each.figures), run]
    trees = [{**asdict(each), "figures": [figure.tree() for figure in each.figures]} for each in runs]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(trees, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def figures_of(benchmark: str, results: Path = RESULTS) -> Iterator[tuple[Figure, Run]]:
    """Every recorded figure of a benchmark, and its run."""
    for run in read_runs(results / f"{benchmark}.json"):
        for figure in run.figures:
            yield figure, run


def recorded_value(benchmark: str, name: str, results: Path = RESULTS) -> float:
    """The value of a figure.

    Raises:
        SystemExit: it was not recorded; the message says how it is.
    """
    for figure, _ in figures_of(benchmark, results):
        if figure.figure == name and figure.value is not None:
            return figure.value
    raise SystemExit(
        f"benchmarks/results/{benchmark}.json has no figure '{name}': run `python -m benchmarks.record {benchmark}`"
    )
