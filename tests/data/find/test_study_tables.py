from __future__ import annotations

from pathlib import Path

import pytest

from sadm_ray.data.find import Problem
from sadm_ray.data.find.study_tables import Row, read_table
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage


def rows(folder: Path, content: str | bytes, name: str = "table.tsv") -> tuple[list[Row], list[str]]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    storage = Storage(str(folder))
    entry = storage.entry(name)
    assert entry is not None
    problems: list[Problem] = []
    return [row for _, row in read_table(storage, entry).rows(problems)], [each.message for each in problems]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ('"moved', '"moved'),
        ('"moved" twice', '"moved" twice'),
        ('5" phantom', '5" phantom'),
        ("said 'no", "said 'no"),
        ('"moved"', "moved"),
        ('"5"" phantom"', '5" phantom'),
        ('"', '"'),
    ],
)
def test_a_quote_in_a_tsv_is_text(tmp_path: Path, field: str, text: str) -> None:
    found, problems = rows(tmp_path, f"a\tb\n{field}\t1\n2\t{field}\n3\t4\n")
    assert found == [{"a": text, "b": "1"}, {"a": "2", "b": text}, {"a": "3", "b": "4"}]
    assert problems == []


def test_a_table_in_which_all_texts_are_quoted(tmp_path: Path) -> None:
    assert rows(tmp_path, '"a"\t"b"\n"x"\t1\n') == ([{"a": "x", "b": "1"}], [])


def test_a_quote_that_swallows_rows_of_a_csv(tmp_path: Path) -> None:
    found, problems = rows(tmp_path, 'a,b\n1,"moved\n2,ok\n3,ok\n', "table.csv")
    assert found == []
    assert ["a quote that is opened" in line for line in problems] == [True]
    found, problems = rows(tmp_path, 'a,b\n1,"two\nlines"\n2,"5"" phantom"\n', "table.csv")
    assert found == [{"a": "1", "b": "two\nlines"}, {"a": "2", "b": '5" phantom'}]
    assert problems == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_told(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(DataError, match=r"table\.tsv: is text in UTF-16; save it in UTF-8"):
        rows(tmp_path, "session_id\tage\n1\t2\n".encode(encoding))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("table.tsv", "session_id;age\n1;2\n", "separated by semicolons where a .tsv has tabs"),
        ("table.tsv", "session_id,age\n1,2\n", "separated by commas where a .tsv has tabs"),
        ("table.csv", "session_id;age\n1;2\n", "separated by semicolons where a .csv has commas"),
        ("table.csv", "session_id\tage\n1\t2\n", "separated by tabs where a .csv has commas"),
    ],
)
def test_another_separator_is_told(tmp_path: Path, name: str, content: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        rows(tmp_path, content, name)
