"""Tables of speed and memory say what was recorded."""

from pathlib import Path

import pytest

from benchmarks.figures import Figure
from benchmarks.recorded import RESULTS, Machine, Run, add_run, read_runs, recorded_value
from benchmarks.tables import DOCUMENTS, rewrite_documents, rewritten

STEP = Figure("step", 1234.5678, "ms", 1500.0, "lower")
RATIO = Figure("ratio", 21.96, "1", None, "higher")
LARGE = Figure("batch 32", None, "ms", None, "lower", "out of memory")


def run(*figures: Figure, command: str = "python -m benchmarks.core", commit: str = "abc1234") -> Run:
    return Run(command, commit, "2026-11-30", Machine("A CPU", 2, "", "2.13.0"), figures)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_documents_say_what_was_recorded(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert rewritten(text, document.name) == text, (
        f"{document.name}: its figures are not those of benchmarks/results; `python -m benchmarks.tables` mends it"
    )


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_recorded_figures_have_an_origin(file: Path) -> None:
    assert (RESULTS.parent / f"{file.stem}.py").is_file()
    names = []
    for each in read_runs(file):
        assert each.command.startswith(f"python -m benchmarks.{file.stem}")
        assert each.commit
        assert each.date
        names += [figure.figure for figure in each.figures]
    assert names
    assert len(names) == len(set(names))


def test_a_block_has_the_rows_it_names(tmp_path: Path) -> None:
    add_run(tmp_path / "core.json", run(STEP, RATIO))
    text = "Before.\n\n<!-- figures: core -->\n| ratio | old |\n| step |\n<!-- end -->\nAfter.\n"
    new = rewritten(text, "a.md", tmp_path)
    assert new == (
        "Before.\n\n<!-- figures: core -->\n"
        "| figure | measured | goal |\n| :-- | --: | --: |\n| ratio | 22 |  |\n| step | 1,230 ms | ≤ 1,500 ms |\n\n"
        "`python -m benchmarks.core`: 2026-11-30, commit abc1234; A CPU, 2 cores, torch 2.13.0.\n"
        "<!-- end -->\nAfter.\n"
    )
    assert rewritten(new, "a.md", tmp_path) == new


def test_a_block_without_rows_has_them_all_and_says_what_could_not_be_measured(tmp_path: Path) -> None:
    add_run(tmp_path / "gpu.json", run(RATIO, LARGE, command="python -m benchmarks.gpu"))
    new = rewritten("<!-- figures: gpu -->\n<!-- end -->", "a.md", tmp_path)
    assert "| figure | measured |\n| :-- | --: |\n| ratio | 22 |\n| batch 32 | out of memory |\n" in new


def test_a_document_with_an_older_figure_is_rewritten(tmp_path: Path) -> None:
    results, document = tmp_path / "results", tmp_path / "a.md"
    add_run(results / "core.json", run(RATIO))
    document.write_text("<!-- figures: core -->\n| figure | measured |\n| :-- | --: |\n| ratio | 23 |\n<!-- end -->\n")
    assert rewrite_documents([document], results) == [document]
    assert "| ratio | 22 |" in document.read_text()
    assert rewrite_documents([document], results) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- figures: core -->\n| speed | 3 |\n<!-- end -->", "no figure 'speed': .*benchmarks.record core"),
        ("<!-- figures: nothing -->\n<!-- end -->", "results/nothing.json has no figure"),
        ("<!-- figures: core -->\n| ratio | 3 |\n", "lacks its name or its `<!-- end -->`"),
        ("<!-- figures: -->\n<!-- end -->", "lacks its name"),
    ],
)
def test_a_block_that_cannot_be_written_is_told(tmp_path: Path, text: str, said: str) -> None:
    add_run(tmp_path / "core.json", run(RATIO))
    with pytest.raises(SystemExit, match=f"a.md: .*{said}"):
        rewritten(text, "a.md", tmp_path)


def test_a_figure_is_of_the_newest_run_that_took_it(tmp_path: Path) -> None:
    file = tmp_path / "core.json"
    add_run(file, run(STEP, RATIO, commit="old"))
    part = run(Figure("ratio", 30.0, "1", None, "higher"), command="python -m benchmarks.core --part monai")
    add_run(file, part)
    assert [(each.commit, len(each.figures)) for each in read_runs(file)] == [("old", 1), ("abc1234", 1)]
    assert recorded_value("core", "ratio", tmp_path) == 30.0
    add_run(file, run(RATIO, commit="broken off"), whole=False)
    assert [each.commit for each in read_runs(file)] == ["old", "broken off"]
    add_run(file, run(RATIO, commit="new"))  # of the first command, which no longer measures the step
    assert [each.commit for each in read_runs(file)] == ["new"]
    with pytest.raises(SystemExit, match=r"no figure 'step': run `python -m benchmarks\.record core`"):
        recorded_value("core", "step", tmp_path)
