"""What the documents promise: lengths, links, paths and names that are there."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    file.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "docs/experiments")
    for file in (ROOT / folder).glob("*.md")
)
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(r"`((?:sadm_ray|tests|docs|configs|pipelines|benchmarks|examples|findings|cluster)/[\w./-]+)`")
OLD_TABLES = "docs/experiments/"
"""They are about earlier commits, whose files may be gone."""


def lines(document: str) -> Iterator[tuple[int, str]]:
    return enumerate((ROOT / document).read_text(encoding="utf-8").splitlines(), 1)


def test_readme_is_short() -> None:
    assert len(list(lines("README.md"))) <= 160
    assert [number for number, line in lines("README.md") if len(line) > 110] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    broken = [
        f"{document}:{number}: {target}"
        for number, line in lines(document)
        for target in LINK.findall(line)
        if not ((ROOT / document).parent / target).exists()
    ]
    assert broken == []


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if not name.startswith(OLD_TABLES)])
def test_paths_are_there(document: str) -> None:
    gone = [
        f"{document}:{number}: {path}"
        for number, line in lines(document)
        for path in PATH.findall(line)
        if not (ROOT / path).exists()
    ]
    assert gone == []


def test_what_people_look_for_is_where_the_list_says() -> None:
    with (ROOT / "tests" / "where.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 50
    assert [row["file"] for row in rows if not (ROOT / row["file"]).is_file()] == []


def test_one_base_name_has_one_meaning() -> None:
    names = [file.name for file in (ROOT / "sadm_ray").rglob("*.py") if file.name != "__init__.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_one_class_name_has_one_meaning() -> None:
    defined = [
        name
        for file in (ROOT / "sadm_ray").rglob("*.py")
        for name in re.findall(r"^class ([A-Z]\w*)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert sorted({name for name in defined if defined.count(name) > 1}) == []
