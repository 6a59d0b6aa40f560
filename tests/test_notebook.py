"""The notebook runs from nothing in an empty folder, and its last cell draws a figure."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_steps.ipynb"


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_kept_without_outputs() -> None:
    assert [cell.id for cell in code_cells(read()) if cell.outputs or cell.execution_count] == []


@pytest.mark.ray
def test_it_runs_from_nothing_and_draws_its_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # or figures are not shown in the notebook
    folder = tmp_path / "folder"
    folder.mkdir()
    resources = {"metadata": {"path": str(folder)}}
    notebook = NotebookClient(read(), timeout=900, kernel_name="python3", resources=resources).execute()

    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert any("image/png" in output.get("data", {}) for output in code_cells(notebook)[-1].outputs)
    assert (folder / "runs" / "first-steps" / "model" / "model.safetensors").is_file()
