"""Visits of one person that were scanned on different days: their gain, their place, their grid, and copies."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

from sadm_ray.config import DataSettings
from sadm_ray.data.find import Subject, find_subjects
from sadm_ray.data.inspect.inspection import inspect_subject
from sadm_ray.data.shards.subject_row import Prepared, parse_row, prepare_subject
from sadm_ray.data.shared_scans import shared_scans
from sadm_ray.storage import Storage

SHAPE = (40, 44, 24)  # x y z
AFFINE = np.diag([1.5, 1.5, 3.0, 1.0])
ROBUST = {"method": "percentile", "over": "visit", "within": "foreground"}
GRID = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")


def head(age: float = 0.0) -> np.ndarray:
    """A head whose ventricle, off its centre, widens with age."""
    x, y, z = GRID
    radius = np.sqrt(x**2 / 0.4 + y**2 / 0.6 + z**2 / 0.6)
    ventricle = ((x - 0.2) / (0.15 + age)) ** 2 + (y / (0.3 + age)) ** 2 + z**2 / 0.2 < 1
    spot = (x + 0.3) ** 2 + (y - 0.3) ** 2 + (z + 0.2) ** 2 < 0.03
    return ndimage.gaussian_filter(300.0 * (radius < 1) + 400 * (radius < 0.85) - 350 * ventricle + 250 * spot, 0.7)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE, dtype: Any = np.float32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(dtype), affine), path)


def study(root: Path, **visits: np.ndarray | nib.Nifti1Image) -> Path:
    """A manifest of one subject whose visits are named in the order of time."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (name, visit) in enumerate(visits.items()):
        if isinstance(visit, np.ndarray):
            save(root / f"{name}.nii.gz", visit)
        else:
            nib.save(visit, root / f"{name}.nii.gz")
        rows.append(f"p1,{name}.nii.gz,{number},{name}")
    (root / "m.csv").write_text("subject,path,time,session\n" + "\n".join(rows) + "\n")
    return root


def settings(**data: Any) -> DataSettings:
    return DataSettings.model_validate({"layout": "manifest", "frames": None, "shape": SHAPE[::-1], **data})


def found(root: Path, chosen: DataSettings) -> Subject:
    (subject,) = find_subjects(str(root / "m.csv"), chosen).subjects
    return subject


def prepared(root: Path, **data: Any) -> Prepared:
    chosen = settings(**data)
    return prepare_subject(found(root, chosen), Storage(str(root)), chosen)


def frames(result: Prepared) -> np.ndarray:
    assert result.row is not None, result.problems
    return parse_row(result.row)["frames"][:, 0]


def lines(result: Prepared, fatal: bool = False) -> list[str]:
    return [str(problem) for problem in result.problems if problem.fatal == fatal]


@pytest.mark.parametrize("gain", [16.0, 1.8, 0.25])
def test_another_scanner_gain_passes_as_anatomy_only_where_it_is_told(tmp_path: Path, gain: float) -> None:
    root = study(tmp_path, first=head(), second=gain * head(0.02))
    shared = prepared(root, intensity={"method": "percentile", "over": "first", "within": "foreground"})
    (line,) = lines(shared)
    assert "second.nii.gz" in line
    assert "data.intensity.over=visit" in line
    own = prepared(root, intensity=ROBUST)
    assert lines(own) == []
    assert abs(frames(own)[1] - frames(own)[0]).mean() < 0.01
    assert own.row is not None
    first, second = json.loads(own.row["sources"])
    assert "knots" not in first, "the subject's range is the first visit's"
    (low, zero), (high, one) = second["knots"]
    assert (zero, one) == (0, 1)
    back = frames(own)[1] * (high - low) + low
    inner = frames(own)[1] < 1
    np.testing.assert_allclose(back[inner], (gain * head(0.02)).T[inner], atol=2e-3 * gain * 950)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("orientation", ["native", "canonical"])
def test_one_grid_stored_in_another_order_is_one_grid(tmp_path: Path, codes: str, orientation: str) -> None:
    image = nib.Nifti1Image(head(0.1).astype(np.float32), AFFINE)
    turned = image.as_reoriented(ornt_transform(io_orientation(AFFINE), axcodes2ornt(codes)))
    result = prepared(study(tmp_path, first=head(), second=turned), orientation=orientation)
    plain = prepared(study(tmp_path / "plain", first=head(), second=head(0.1)), orientation=orientation)
    assert result.problems == ()
    np.testing.assert_array_equal(frames(result), frames(plain))


def test_another_grid_is_resampled_where_the_settings_say_so(tmp_path: Path) -> None:
    fine = np.diag([0.75, 0.75, 1.0, 1.0])
    fine[:3, 3] = -0.375, -0.375, -1.0
    large = ndimage.zoom(head(0.1), (2, 2, 3), order=1, mode="nearest", grid_mode=True)
    root = study(tmp_path, first=head(), second=nib.Nifti1Image(large.astype(np.float32), fine))
    (fault, _) = lines(prepared(root), fatal=True)
    assert "data.register=header" in fault
    result = prepared(root, register="header")
    assert result.problems == ()
    plain = prepared(study(tmp_path / "plain", first=head(), second=head(0.1)))
    assert abs(frames(result) - frames(plain))[1].mean() < 0.01


def misplaced() -> tuple[np.ndarray, np.ndarray]:
    """The later head moved by (6, −4.5, 3) mm, and that as a map."""
    moved = np.eye(4)
    moved[:3, 3] = 6.0, -4.5, 3.0
    return ndimage.shift(head(0.05), (4, -3, 1), order=1), moved


def test_a_misplaced_visit_is_told_and_registered(tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK")
    visit, moved = misplaced()
    root = study(tmp_path, first=head(), second=3 * visit)
    (line,) = lines(prepared(root, intensity=ROBUST))
    assert re.search("second.nii.gz: lies about [789] mm beside the first visit", line)
    result = prepared(root, intensity=ROBUST, register="rigid")
    assert lines(result) == []
    plain = prepared(study(tmp_path / "plain", first=head(), second=head(0.05)), intensity=ROBUST)
    inner = (slice(None), slice(3, -3), slice(5, -5), slice(5, -5))
    assert abs(frames(result) - frames(plain))[inner].mean() < 0.01
    assert result.row is not None
    first, second = json.loads(result.row["sources"])
    assert "moved" not in first
    np.testing.assert_allclose(np.reshape(second["moved"], (4, 4)), moved, atol=0.3)


def test_inspect_shows_each_visit_beside_the_first(tmp_path: Path) -> None:
    visit, _ = misplaced()
    root = study(tmp_path, first=head(), second=3 * visit)
    chosen = settings()
    record, problems = inspect_subject(found(root, chosen), str(root), chosen, "years", None)
    first, second = record["visits"]
    assert first["beside"] is None
    assert second["beside"]["correlation"] < second["beside"]["moved_correlation"] - 0.05
    assert second["beside"]["move"] == pytest.approx(8.1, abs=2)
    assert second["beside"]["level"] == pytest.approx(3, rel=0.05)
    told = "\n".join(map(str, problems))
    assert "data.register=rigid" in told
    assert re.search(
        "second.nii.gz: is (3|2.9) times as bright as the first visit; set data.intensity.over=visit", told
    )
    own = settings(intensity=ROBUST)
    assert "bright" not in str(inspect_subject(found(root, own), str(root), own, "years", None)[1])


def copied(root: Path) -> None:
    shutil.copy(root / "first.nii.gz", root / "second.nii.gz")


def linked(root: Path) -> None:
    (root / "second.nii.gz").unlink()
    (root / "second.nii.gz").symlink_to(root / "first.nii.gz")


def resaved(root: Path) -> None:
    save(root / "second.nii.gz", head(), dtype=np.float64)
    save(root / "first.nii.gz", nib.load(root / "second.nii.gz").get_fdata().astype(np.float32))


def turned_about(root: Path) -> None:
    image = nib.load(root / "first.nii.gz")
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt("LPS"))
    nib.save(image.as_reoriented(turn), root / "second.nii.gz")


@pytest.mark.parametrize("copy", [copied, linked, resaved, turned_about])
def test_a_scan_does_not_count_twice(tmp_path: Path, copy: Any) -> None:
    root = study(tmp_path, first=head(), second=head(0.1), third=head(0.2))
    copy(root)
    result = prepared(root)
    (line,) = lines(result, fatal=True)
    assert "second.nii.gz: is the same scan as" in line
    assert "first.nii.gz" in line
    assert len(frames(result)) == 2, "the others stay"


def test_repeated_frames_of_a_cine_are_left_out_and_told(tmp_path: Path) -> None:
    cine = np.stack([head(age) for age in (0, 0.05, 0.1, 0.1, 0.15, 0)], axis=-1)
    save(tmp_path / "c.nii.gz", cine)
    (tmp_path / "m.csv").write_text("subject,path\nc,c.nii.gz\n")
    result = prepared(tmp_path)
    assert any("left out: 4, 6" in line for line in lines(result))
    assert len(frames(result)) == 4


def test_one_scan_under_two_subjects_is_told() -> None:
    names = [("a", ["1", "2"]), ("b", ["3"]), ("c", ["4", "2"]), ("d", ["3", "1"])]
    told = {(problem.subject, problem.message.split()[4].rstrip(",")) for problem in shared_scans(names, "/study")}
    assert told == {("c", "a"), ("d", "a"), ("d", "b")}
    assert not any(problem.fatal for problem in shared_scans(names, "/study"))
