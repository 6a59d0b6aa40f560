"""The tables of speed and memory in the documents, made from the recorded figures.

    python -m benchmarks.tables      after a change of a table's rows; `benchmarks.record` does it by itself

A block begins with `<!-- figures: core -->`, the benchmark's name, and ends with `<!-- end -->`. The first cell of
each row between them names a figure, and this module writes all else. A block without rows gets every figure.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.recorded import RESULTS, Run, figures_of

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_WIDTH = 110
_BEGIN = "<!-- figures:"
_BLOCK = re.compile(r"<!-- figures: ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
_HEAD = "figure"


def rewrite_documents(documents: Sequence[Path] = DOCUMENTS, results: Path = RESULTS) -> list[Path]:
    """Write every block anew; returns the documents that changed."""
    changed = []
    for document in documents:
        text = document.read_text(encoding="utf-8")
        if (new := rewritten(text, document.name, results)) != text:
            document.write_text(new, encoding="utf-8")
            changed.append(document)
    return changed


def rewritten(text: str, document: str, results: Path = RESULTS) -> str:
    """The text with its blocks as the recorded figures give them.

    Args:
        document: its name, for messages.

    Raises:
        SystemExit: a block has no end, or names a figure that was not recorded.
    """
    new, blocks = _BLOCK.subn(lambda match: _block(match, document, results), text)
    if text.count(_BEGIN) != blocks:
        raise SystemExit(f"{document}: a block `{_BEGIN} NAME -->` lacks its name or its `<!-- end -->`")
    return new


def _block(match: re.Match[str], document: str, results: Path) -> str:
    benchmark, inside = match.groups()
    recorded = {figure.figure: (figure, run) for figure, run in figures_of(benchmark, results)}
    cells = re.findall(r"^\| *(.*?) *\|", inside, re.MULTILINE)
    names = [cell for cell in cells if cell != _HEAD and not re.fullmatch(r":?-+:?", cell)] or list(recorded)
    unknown = [name for name in names if name not in recorded]
    if unknown or not names:
        raise SystemExit(
            f"{document}: benchmarks/results/{benchmark}.json has no figure '{', '.join(unknown)}': "
            f"name another in the row, or run `python -m benchmarks.record {benchmark}`"
        )
    chosen = [recorded[name] for name in names]
    return f"<!-- figures: {benchmark} -->\n{_table(chosen)}\n\n{_origin(chosen)}\n<!-- end -->"


def _table(chosen: Sequence[tuple[Figure, Run]]) -> str:
    goals = any(figure.reach is not None for figure, _ in chosen)
    rows = [[_HEAD, "measured", "goal"], [":--", "--:", "--:"]]
    rows += [[figure.figure, _measured(figure), _goal(figure)] for figure, _ in chosen]
    return "\n".join(f"| {' | '.join(row if goals else row[:-1])} |" for row in rows)


def _measured(figure: Figure) -> str:
    return figure.note if figure.value is None else _with_unit(figure.value, figure.unit)


def _goal(figure: Figure) -> str:
    sign = "≥" if figure.better == "higher" else "≤"
    return "" if figure.reach is None else f"{sign} {_with_unit(figure.reach, figure.unit)}"


def _with_unit(value: float, unit: str) -> str:
    """Three digits that count, thousands apart."""
    number = f"{float(f'{value:.3g}'):,.10g}"
    return number if unit == "1" else f"{number} {unit}"


def _origin(chosen: Sequence[tuple[Figure, Run]]) -> str:
    """The commands, commits, days and machines of the figures, in a line of prose each."""
    lines = []
    for run in dict.fromkeys(run for _, run in chosen):
        where = f"; {run.machine}" if str(run.machine) else ""
        line = f"`{run.command}`: {run.date}, commit {run.commit}{where}."
        lines.append(textwrap.fill(line, _WIDTH, break_long_words=False, break_on_hyphens=False))
    return "\n".join(lines)


if __name__ == "__main__":
    for changed in rewrite_documents():
        print(f"{changed.relative_to(ROOT)}: tables written")
