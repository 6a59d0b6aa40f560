"""Recording: what a benchmark prints, and where and when it ran."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import record, recorded
from benchmarks.figures import say
from benchmarks.short import problem

PRINTS = """
from benchmarks.figures import say
print("what a library prints")
say("a figure", 1.23456, "CPU s", "lower", 2.0)
say("batch 32", None, "ms", "lower", note="out of memory")
raise SystemExit(3)
"""


def test_what_was_printed_is_recorded_even_if_it_then_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "fails.py").touch()
    figures = record._figures
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "_figures", lambda _: figures([sys.executable, "-c", PRINTS]))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    out = tmp_path / "out.json"
    arguments = ["--commit", "abc", "--out", str(out), "fails", "--beside", "/home/me/other", "--folds", "0"]
    monkeypatch.setattr(sys, "argv", ["record", *arguments])
    with pytest.raises(SystemExit) as end:
        record.main()
    assert end.value.code == 3
    (run,) = recorded.read_runs(out)
    assert [(figure.value, figure.note) for figure in run.figures] == [(1.235, ""), (None, "out of memory")]
    assert run.command == "python -m benchmarks.fails --beside … --folds 0"
    assert run.commit == "abc"
    assert run.machine.cores > 0
    assert run.machine.torch
    assert "what a library prints" in capfd.readouterr().out


def test_a_benchmark_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["record", "cor"])
    with pytest.raises(SystemExit, match="2"):
        record.main()
    assert "there is no benchmarks/cor.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        ("data.root=/scans/acdc", "data.root=…"),
        ("../other", "…"),
        ("generate.ensemble=[/a/model,/b/model]", "generate.ensemble=[…,…]"),
        ("train.steps=600", "train.steps=600"),
        ("--part", "--part"),
    ],
)
def test_paths_of_the_machine_are_not_recorded(argument: str, kept: str) -> None:
    assert record._without_paths([argument]) == [kept]


def test_a_line_has_a_note_only_where_nothing_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    say("a", 2.0, "1", "higher")
    assert json.loads(capsys.readouterr().out) == {
        "figure": "a",
        "value": 2.0,
        "unit": "1",
        "reach": None,
        "better": "higher",
    }


def test_the_short_benchmark_fails_below_half_of_what_is_recorded() -> None:
    assert problem(5.0, recorded=10.0) == ""
    assert "4.9 times as fast as MONAI's, less than half of the 10 in" in problem(4.9, recorded=10.0)
