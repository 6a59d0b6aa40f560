"""The wheel holds everything that the package reads: its modules, its settings files, the report's page and viewer."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "sadm_ray", "configs")
"""What the build reads; it is copied, since building writes beside it."""
WRITTEN = ("__pycache__", "*.egg-info", "build")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all files in the wheel, built without the network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*WRITTEN))
        else:
            shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, f"--wheel-dir={out}", str(source)], check=True, timeout=300)
    (file,) = out.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_every_module_is_in_the_wheel(wheel: set[str]) -> None:
    modules = {str(file.relative_to(ROOT)) for file in ROOT.glob("sadm_ray/**/*.py")}
    assert modules - wheel == set()


def test_every_settings_file_is_in_the_wheel(wheel: set[str]) -> None:
    files = {f"sadm_ray/configs/{file.name}" for file in ROOT.glob("configs/*.yaml")}
    assert "sadm_ray/configs/acdc_small.yaml" in files
    assert files - wheel == set()


def test_the_report_and_its_viewer_are_in_the_wheel(wheel: set[str]) -> None:
    suffixes = {".html", ".css", ".js", ".txt"}
    files = {str(file.relative_to(ROOT)) for file in ROOT.glob("sadm_ray/report/**/*") if file.suffix in suffixes}
    assert {"sadm_ray/report/page.html", "sadm_ray/report/style.css", "sadm_ray/report/viewer.js"} <= files
    assert any(file.startswith("sadm_ray/report/vendor/") for file in files)
    assert (files | {"sadm_ray/py.typed"}) - wheel == set()


def test_nothing_else_is_installed(wheel: set[str]) -> None:
    top = {name.partition("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"sadm_ray"}
