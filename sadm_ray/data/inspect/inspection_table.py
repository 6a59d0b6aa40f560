"""An inspection as text for a terminal: a row a subject, and below it what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sadm_ray.data.find import Problem
from sadm_ray.data.inspect.inspection import Inspection, Record, visit_count
from sadm_ray.data.inspect.label_checks import labels_in, structure_counts

FIRST_ROWS, MAX_ROWS = 100, 200
"""Rows that are always shown, and the most rows when further subjects with problems are shown too."""
MAX_STRUCTURES = 12
"""How many structures of label maps are listed."""
MAX_FILES = {True: 20, False: 3}
"""How many files are named below a line that holds for several; by whether it is fatal."""


def render(inspection: Inspection) -> Group:
    """The table, a line of sums, and every problem; print it with `soft_wrap`, so that a problem stays one line.

    Fit is the correlation of the later visits with the first, level their brightness as a multiple of its.
    """
    marks = {problem.subject: Text("!", "yellow") for problem in inspection.problems}
    marks |= {problem.subject: Text("✗", "red") for problem in inspection.problems if problem.fatal}
    shown = _shown(inspection.records, marks)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("", "subject", "group"):
        table.add_column(heading, overflow="fold")
    unit = inspection.time_unit
    time = f"time, {unit}" if len(unit) < 10 else "time"  # a longer one is in the last line
    for heading in ("visits", time, "shape", "spacing, mm", "lies", "fit", "type", "intensity", "level", "MB"):
        table.add_column(heading, justify="right", overflow="fold")
    if any("contrasts" in record for record in inspection.records):
        table.add_column("contrasts", overflow="fold")
    structures = structure_counts(inspection.records)
    if structures:
        table.add_column("label maps", overflow="fold")
    for record in shown:
        labelled = [_labelled(record)] if structures and record["visits"] else []
        table.add_row(marks.get(record["subject"], Text()), *map(_text, [*_cells(record), *labelled]))
    hidden = len(inspection.records) - len(shown)
    more = [Text(f"… and {hidden} more subjects that are not shown; --json lists all")] if hidden else []
    sums = [Text(_sums(inspection), "bold"), *_structure_lines(inspection)]
    return Group(table, *more, *sums, *_problem_lines(inspection))


def _shown(records: Sequence[Record], marked: Iterable[str]) -> list[Record]:
    if len(records) <= MAX_ROWS:
        return list(records)
    wrong = set(marked)
    later = [record for record in records[FIRST_ROWS:] if record["subject"] in wrong]
    return [*records[:FIRST_ROWS], *later[: MAX_ROWS - FIRST_ROWS]]


def _cells(record: Record) -> Iterator[str]:
    visits = record["visits"]
    yield record["subject"]
    yield record["group"]
    yield str(visit_count(record))
    if not visits:
        return
    yield _range(min(visit["first"] for visit in visits), max(visit["last"] for visit in visits))
    yield _few("×".join(map(str, visit["shape"])) for visit in visits)
    yield _few("×".join(f"{size:.3g}" for size in visit["spacing"]) for visit in visits)
    yield _few(visit["orientation"] for visit in visits)
    beside = [visit["beside"] for visit in visits if visit["beside"]]
    yield _span([each["correlation"] for each in beside], "{:.2f}")
    yield _few(visit["dtype"] for visit in visits)
    yield _range(min(visit["low"] for visit in visits), max(visit["high"] for visit in visits))
    yield _span([each["level"] for each in beside], "×{:.2g}")
    yield f"{sum(visit['bytes'] for visit in visits) / 1e6:.1f}"
    if "contrasts" in record:
        yield ", ".join(f"{session} {'+'.join(names)}" for session, names in record["contrasts"].items())


def _labelled(record: Record) -> str:
    """Which visits, or frames from 1, have a label map: `2: 1, 12`."""
    labelled = [
        str(each["frame"] + 1) if each["frame"] is not None else visit["session"] or "yes"
        for visit in record["visits"]
        for each in visit.get("labels", ())
    ]
    return f"{len(labelled)}: {_few(labelled)}" if labelled else ""


def _structure_lines(inspection: Inspection) -> Iterator[Text]:
    """How many label maps there are, and how many of them have each structure; those of most maps first."""
    counts = structure_counts(inspection.records)
    if counts:
        maps = sum(len(labels_in(record)) for record in inspection.records)
        listed = [f"{name} {count}" for name, count in counts.most_common(MAX_STRUCTURES)]
        more = [f"… and {len(counts) - MAX_STRUCTURES} more"] if len(counts) > MAX_STRUCTURES else []
        yield _text(f"label maps: {maps}; with {', '.join([*listed, *more])}")


def _range(low: float, high: float) -> str:
    return f"{low:.4g}–{high:.4g}".replace("-", "−")


def _span(values: Sequence[float], form: str) -> str:
    """The least and the greatest, once if they look the same; empty without any."""
    return "–".join(dict.fromkeys(form.format(value) for value in (min(values), max(values)))) if values else ""


def _few(values: Iterable[str]) -> str:
    """One value if all are equal; else two of them, and how many more there are."""
    unique = list(dict.fromkeys(values))
    more = [f"+{len(unique) - 2}"] if len(unique) > 2 else []
    return ", ".join([*unique[:2], *more])


def _sums(inspection: Inspection) -> str:
    counts = inspection.counts
    splits = ", ".join(f"{split} {count}" for split, count in counts["splits"].items())
    size = counts["bytes"] / 1e9
    amount = f"{size:.2f} GB" if size >= 0.1 else f"{size * 1e3:.1f} MB"
    usable = f"subjects: {counts['subjects']}, usable: {counts['usable']} ({splits})"
    return f"{usable}, visits: {counts['visits']}, {amount}, time in {inspection.time_unit}"


def _problem_lines(inspection: Inspection) -> Iterator[Text]:
    for fatal, heading, style in ((True, "left out", "red"), (False, "worth a look", "yellow")):
        groups: dict[str, list[Problem]] = {}
        for problem in inspection.problems:
            if problem.fatal == fatal:
                groups.setdefault(problem.message, []).append(problem)
        if groups:
            yield Text(f"{heading}:", style)
        for message, group in groups.items():
            if len(group) == 1:
                yield _text(f"  {group[0]}")
                continue
            yield _text(f"  {len(group)} files: {message}")
            yield from (_text(f"    {problem.subject}: {problem.file}") for problem in group[: MAX_FILES[fatal]])
            if len(group) > MAX_FILES[fatal]:
                yield Text(f"    … and {len(group) - MAX_FILES[fatal]} more; --json lists all", "dim")


def _text(line: str) -> Text:
    """No markup, and nothing that steers a terminal: names come from the study's disk."""
    return Text("".join(letter if letter.isprintable() else "�" for letter in line))
