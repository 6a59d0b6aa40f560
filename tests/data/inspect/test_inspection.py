"""Looking through a study: every subject has its row, every fault its line, and pictures stand upright."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from rich.console import Console

from sadm_ray.config import DataSettings
from sadm_ray.config.settings_file import load_settings
from sadm_ray.data.find import Problem
from sadm_ray.data.inspect.cohort_checks import cohort_warnings
from sadm_ray.data.inspect.contact_sheet import COLUMNS, MAX_KEPT, Column, ContactSheet, middle_slices
from sadm_ray.data.inspect.inspection import Inspection, inspect_study
from sadm_ray.data.inspect.inspection_table import MAX_ROWS, render
from sadm_ray.data.read.visit_comparison import BesideFirst
from sadm_ray.errors import ConfigError
from tests.data.patients import write_info

PNG = b"\x89PNG"


def inspect(root: Path, *overrides: str, pictures: Path | None = None) -> Inspection:
    settings = load_settings(None, [f"data.root={root}", *overrides])
    return inspect_study(settings, str(root), pictures)


def text(inspection: Inspection) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(render(inspection), soft_wrap=True)
    return captured.get()


def record(name: str, split: str = "train", **visit: Any) -> dict[str, Any]:
    """A subject of one file, as an inspection describes it."""
    usual = {"session": "", "file": f"/{name}.nii", "frames": 2, "stored": 2, "first": 0.0, "last": 1.0}
    usual |= {"shape": [4, 5, 6], "spacing": [1.0, 1.0, 1.0], "orientation": "RAS", "dtype": "int16"}
    usual |= {"low": -3.0, "high": 900.0, "bytes": 10**6, "beside": None, "voxels": []}
    return {"subject": name, "group": "", "split": split, "usable": True, "visits": [usual | visit]}


def test_every_subject_has_a_row_and_a_picture(phantom_study: Path, tmp_path: Path, ray_local: None) -> None:
    found = inspect(phantom_study, pictures=tmp_path / "new" / "pictures")
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    names = [f"patient{number:03d}" for number in range(1, 13)]
    assert not found.failed
    assert [subject["subject"] for subject in content["subjects"]] == names
    assert content["schema_version"] == 1
    assert content["counts"]["usable"] == sum(content["counts"]["splits"].values()) == 12
    for subject in content["subjects"]:
        (visit,) = subject["visits"]
        assert 8 <= visit["frames"] <= 11 < visit["stored"]
        assert (visit["first"], visit["last"], visit["shape"]) == (0, 1, [24, 24, 4])
        assert 0 <= visit["low"] < visit["high"]
        assert visit["bytes"] == Path(visit["file"]).stat().st_size
    shown = text(found)
    assert all(name in shown for name in names)
    pictures = sorted((tmp_path / "new" / "pictures").iterdir())
    assert [file.name for file in pictures] == [f"{name}.png" for name in names]
    assert all(file.read_bytes().startswith(PNG) for file in pictures)


def test_problems_are_shown_with_their_files(phantom_study: Path, tmp_path: Path, ray_local: None) -> None:
    for number in range(1, 6):
        shutil.copytree(phantom_study / f"patient00{number}", tmp_path / f"patient00{number}")
    cut, silent, late = (tmp_path / f"patient00{number}" for number in (1, 2, 3))
    scan = cut / f"{cut.name}_4d.nii.gz"
    scan.write_bytes(scan.read_bytes()[:2000])
    (silent / "Info.cfg").unlink()
    write_info(late, ed=1, es=99, group="USUAL")
    found = inspect(tmp_path)
    assert found.failed
    assert [record["usable"] for record in found.records] == [False, False, False, True, True]
    assert {problem.subject for problem in found.problems if problem.fatal} == {cut.name, silent.name, late.name}
    shown = text(found)
    assert "subjects: 5, usable: 2" in shown
    assert "add subjects" in shown
    for problem in found.problems:
        assert f"  {problem}\n" in shown, "one line each, however long"
    assert sum(line.startswith("✗") for line in map(str.strip, shown.splitlines())) == 3


def test_a_study_without_a_usable_subject_is_still_shown(phantom_study: Path, tmp_path: Path, ray_local: None) -> None:
    for number in (1, 2):
        shutil.copytree(phantom_study / f"patient00{number}", tmp_path / f"patient00{number}")
        (tmp_path / f"patient00{number}" / "Info.cfg").unlink()
    found = inspect(tmp_path)
    assert [record["usable"] for record in found.records] == [False, False]
    assert found.counts["problems"] == 2
    assert "patient002" in text(found)


def test_pictures_that_cannot_be_written_are_refused_at_once(phantom_study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--pictures: .*file cannot be made"):
        inspect(phantom_study, pictures=tmp_path / "file")


SOME = [record("a"), record("b", "val"), record("c", "test")]


@pytest.mark.parametrize(
    ("records", "settings", "says"),
    [
        (SOME, {}, []),
        (SOME[:2], {}, ["usable subjects: 2"]),
        ([], {}, ["usable subjects: 0"]),
        ([*SOME, {**record("d"), "usable": False, "visits": []}], {}, []),
        ([*SOME[:2], record("c")], {}, ["no subject falls to test; set data.split.method=balanced"]),
        ([*SOME[:2], record("c")], {"split": {"test": 0}}, []),
        ([*SOME, record("d", orientation="LPS")], {}, ["(3 RAS, 1 LPS); set data.orientation=canonical"]),
        ([*SOME, record("d", orientation="LPS")], {"orientation": "canonical"}, []),
        ([*SOME, record("d", spacing=[1.0, 1.0, 2.0])], {}, []),
        ([*SOME, record("d", spacing=[1, 1, 5])], {}, ["foot to head, voxels are 1 mm in a and 5 mm in d"]),
        ([*SOME, record("d", spacing=[1.0, 1.0, 5.0])], {"spacing": (5, 1, 1)}, []),
        ([*SOME, record("d", spacing=[1, 5, 1], orientation="RIA")], {"orientation": "canonical"}, ["foot to head"]),
    ],
)
def test_subjects_are_compared(records: list[dict[str, Any]], settings: dict[str, Any], says: list[str]) -> None:
    lines = list(cohort_warnings(records, DataSettings.model_validate(settings)))
    assert len(lines) == len(says)
    assert all(piece in line for piece, line in zip(says, lines, strict=True))


def test_a_large_study_shows_some_and_those_with_problems() -> None:
    records = tuple(record(f"s{number:04d}") for number in range(1000))
    some = [
        Problem("s0950", "/s0950.nii", "breaks off; copy it again"),
        Problem("s0951", "/x", "odd; look", fatal=False),
    ]
    shown = text(Inspection("/study", "weeks", records, tuple(some)))
    assert [f" s{number:04d} " in shown for number in (0, 99, 100, 949, 950, 951)] == [
        True,
        True,
        False,
        False,
        True,
        True,
    ]
    assert "898 more subjects" in shown
    many = tuple(Problem(record["subject"], record["visits"][0]["file"], "odd; look") for record in records)
    shown = text(Inspection("/study", "weeks", records, many))
    assert shown.count("4×5×6") == MAX_ROWS
    assert shown.count("odd; look") == 1, "the same line is shown once"
    assert "1000 files: odd; look" in shown
    assert "… and 980 more" in shown


def test_names_cannot_steer_the_terminal() -> None:
    wild = Problem("[red]\x1b[31m", "/a\nb", "odd; look")
    shown = text(Inspection("/study", "weeks", ({**record("[red]\x1b[31m"), "visits": []},), (wild,)))
    assert "\x1b" not in shown
    assert "[red]�[31m: /a�b: odd; look" in shown


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PSR", "AIL"])
def test_pictures_stand_upright_however_the_file_lies(codes: str) -> None:
    body = np.random.default_rng(0).random((6, 7, 8)).astype(np.float32)  # to the left, the back, the head
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    turn = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(codes))
    turned = nib.orientations.apply_orientation(body, turn)
    lying = affine @ inv_ornt_aff(turn, body.shape)
    spacing = np.linalg.norm(lying[:3, :3], axis=0)
    axial, coronal, sagittal = middle_slices(np.ascontiguousarray(turned.T), lying, tuple(map(float, spacing)))
    np.testing.assert_array_equal(axial.pixels, body[:, :, 4].T)
    np.testing.assert_array_equal(coronal.pixels, body[:, 3, :].T[::-1])
    np.testing.assert_array_equal(sagittal.pixels, body[3].T[::-1])
    assert [(view.height, view.width) for view in (axial, coronal, sagittal)] == [(14, 6), (24, 6), (24, 14)]


@pytest.mark.parametrize("frames", [1, 3, COLUMNS, MAX_KEPT + 1, 500])
def test_a_contact_sheet_keeps_few_frames_with_the_first_and_the_last(frames: int) -> None:
    sheet = ContactSheet()
    for number in range(frames):
        volume = np.full((300, 4, 500), number, np.float32)
        sheet.add(str(number), volume, np.eye(4), (1.0, 1.0, 1.0))
    assert len(sheet.kept) <= MAX_KEPT
    chosen = [int(column.title) for column in sheet.chosen()]
    assert (chosen[0], chosen[-1], len(chosen)) == (0, frames - 1, min(frames, COLUMNS))
    assert max(np.diff(chosen), default=1) <= 2 * max(1, frames / COLUMNS)
    assert all(max(piece.pixels.shape) <= 200 for column in sheet.kept for piece in column.slices)
    assert sheet.draw("subject").startswith(PNG)


def test_a_later_visit_lies_in_the_outline_of_the_first_with_its_fit_and_brightness() -> None:
    head = np.zeros((12, 40, 30), np.float32)
    head[3:9, 10:30, 8:22] = np.arange(14) + 20

    def orange(*besides: BesideFirst | None) -> int:
        sheet = ContactSheet()
        for beside in besides:
            sheet.add("1.5", head * (beside.level if beside else 1), np.eye(4), (1.0, 1.0, 2.0), beside)
        red, _, blue, _ = plt.imread(io.BytesIO(sheet.draw("subject"))).T
        return int(((red > 0.6) & (blue < 0.35)).sum())

    moved, bright = BesideFirst(0.64, 12.0, 0.97, 1.2), BesideFirst(0.99, 0.0, 0.99, 16.0)
    assert [Column("", (), beside).gain for beside in (None, moved, bright)] == [1, 1, 16]
    assert Column("", (), moved).note == "fit 0.64, ×1.2"
    assert Column("", (), bright).note == "fit 0.99, ×16, own window"
    assert orange(None, None) == 0, "frames of the first visit"
    assert orange(None, moved) > 100
    assert orange(None, moved, bright) > 1.8 * orange(None, moved)


REAL = {  # the pattern of a subject's folder or file, visits of each subject, settings
    "acdc_native_edes": ("patient*", 2, ()),
    "brain_growth_bids": ("sub-*", 14, ("data.layout=bids", "data.suffix=T2w")),
    "ms_two_visits_bids": ("sub-*", 2, ("data.layout=bids", "data.suffix=FLAIR", "data.time_column=order")),
    "pig_cine_cc0": ("*.nii.gz", 20, ("data.layout=manifest",)),
}


@pytest.mark.real_data
@pytest.mark.parametrize("folder", REAL)
def test_real_scans_have_nothing_wrong(folder: str, real_data: Path, tmp_path: Path, ray_local: None) -> None:
    pattern, visits, overrides = REAL[folder]
    root = real_data / folder
    subjects = len(list(root.glob(pattern)))
    if folder == "pig_cine_cc0":
        (scan,) = root.glob("*.nii.gz")
        root = tmp_path / "pig.csv"
        root.write_text(f"subject,path\npig,{scan.absolute()}\n")
    found = inspect(root, *overrides, pictures=tmp_path / "pictures")
    told = [problem.message for problem in found.problems if problem.subject]
    assert len(told) == (subjects if folder == "acdc_native_edes" else 0)
    assert all("pixdim has voxels of" in line for line in told), "ACDC's frame files have an affine of 1 mm"
    assert (found.counts["usable"], found.counts["visits"]) == (subjects, subjects * visits)
    assert len(list((tmp_path / "pictures").iterdir())) == subjects
    shown = text(found)
    assert all(record["subject"] in shown for record in found.records)


@pytest.mark.real_data
def test_all_of_acdc_is_inspected(real_data: Path, ray_local: None) -> None:
    found = inspect(real_data / "acdc")
    assert not found.failed
    assert found.counts["usable"] == 60
    assert all(record["group"] in {"DCM", "HCM", "MINF", "NOR", "RV"} for record in found.records)
    messages = [problem.message for problem in found.problems]
    assert sum("spacing looks reset to 1 mm" in line for line in messages) == 27
    assert any("data.orientation=canonical" in line for line in messages)
    assert any("foot to head, voxels are 1 mm" in line for line in messages)
    assert max(map(len, text(found).splitlines()[:60])) <= 120
