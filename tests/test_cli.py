"""The command line: messages of one line, exit codes, nothing lost."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sadm_ray import __version__
from sadm_ray.cli import main

ROOT = Path(__file__).parents[1]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("train", "train.stepz=3"), 2, "error: train.stepz: no such setting; did you mean train.steps?"),
        (("run", "--config", "nowhere.yaml"), 2, "error: nowhere.yaml: no such settings file"),
        (("fly",), 2, "No such command 'fly'"),
        (("train", "run.dir={tmp}"), 3, "run `sadm-ray prepare` first"),
        (("evaluate", "run.dir={tmp}"), 3, "run `sadm-ray prepare` first"),
    ],
)
def test_mistakes_have_one_line_and_their_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    got, _, err = call(capsys, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert got == code
    assert says in err
    assert "Traceback" not in err


def test_a_study_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ray_local: None
) -> None:
    got, _, err = call(capsys, "prepare", f"run.dir={tmp_path}", "data.root=/no/such/study")
    assert got == 3
    assert "/no/such/study" in err


def test_inspect_lists_the_phantom_and_draws_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ray_local: None
) -> None:
    phantom = (f"run.dir={tmp_path}", "phantom.subjects=3", "phantom.shape=[4,16,16]")
    code, out, _ = call(capsys, "inspect", *phantom, "--pictures", str(tmp_path / "pictures"))
    assert code == 0
    assert all(name in out for name in ("patient001", "patient002", "patient003", "subjects: 3"))
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3


def test_inspect_prints_problems_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, phantom_study: Path, ray_local: None
) -> None:
    shutil.copytree(phantom_study, tmp_path, dirs_exist_ok=True)
    scan = tmp_path / "patient001" / "patient001_4d.nii.gz"
    scan.write_bytes(scan.read_bytes()[:3000])
    code, out, err = call(capsys, "inspect", f"data.root={tmp_path}", "--json")
    assert code == 3
    assert "error: " in err
    (problem,) = (problem for problem in json.loads(out)["problems"] if problem["fatal"])
    assert (problem["subject"], problem["file"]) == ("patient001", str(scan))
    code, out, _ = call(capsys, "inspect", f"data.root={tmp_path}")
    assert code == 3
    assert f"  patient001: {scan}: {problem['message']}\n" in out


def test_version_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version")[1].strip() == f"sadm-ray {__version__}"
    code, out, _ = call(capsys, "settings", "train.steps=7")
    assert code == 0
    assert "  steps: 7\n" in out


@pytest.mark.parametrize("pipeline", sorted((ROOT / "pipelines").glob("*.py")), ids=lambda file: file.stem)
def test_every_pipeline_is_the_command_of_its_name(pipeline: Path) -> None:
    done = subprocess.run(
        [sys.executable, pipeline, "--help"], capture_output=True, text=True, check=True, timeout=60, cwd="/"
    )
    assert f"sadm-ray {pipeline.stem} " in done.stdout
