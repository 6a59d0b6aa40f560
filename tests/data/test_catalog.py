from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sadm_ray.data.catalog import Catalog, find_subjects
from sadm_ray.errors import DataError
from tests.data.patients import AFFINE, write_cine, write_info, write_single_frames


def one_problem(catalog: Catalog) -> str:
    assert [subject.name for subject in catalog.subjects] == ["patient099"], "the good one stays"
    assert len(catalog.problems) == 1
    return catalog.problems[0].message


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A study that already has one good patient."""
    write_cine(tmp_path, "patient099")
    return tmp_path


def test_a_cine_from_end_diastole_to_end_systole(tmp_path: Path) -> None:
    path = write_cine(tmp_path, "patient090", ed=4, es=8, group="RV")
    catalog = find_subjects(tmp_path)
    (subject,) = catalog.subjects
    assert (subject.name, subject.group) == ("patient090", "RV")
    assert [frame.index for frame in subject.frames] == [3, 4, 5, 6, 7]
    assert [frame.time for frame in subject.frames] == [0, 0.25, 0.5, 0.75, 1]
    assert {frame.path for frame in subject.frames} == {path}
    np.testing.assert_array_equal(subject.affine, AFFINE)
    assert catalog.problems == ()


def test_a_cine_goes_round_when_systole_comes_first(tmp_path: Path) -> None:
    write_cine(tmp_path, "patient001", ed=7, es=2)
    (subject,) = find_subjects(tmp_path).subjects
    assert [frame.index for frame in subject.frames] == [6, 7, 0, 1]


def test_single_frames_without_the_label_maps(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).random((6, 5, 4))
    folder = write_single_frames(tmp_path, "patient006", {4: frame, 16: frame}, ed=4, es=16)
    (subject,) = find_subjects(tmp_path).subjects
    assert [scan.path.name for scan in subject.frames] == ["patient006_frame04.nii.gz", "patient006_frame16.nii.gz"]
    assert [(scan.index, scan.time) for scan in subject.frames] == [(None, 0), (None, 1)]
    write_info(folder, ed=16, es=4, group="DCM")
    assert "must come after ED" in find_subjects(tmp_path).problems[0].message


def test_both_parts_of_the_published_layout(tmp_path: Path) -> None:
    write_cine(tmp_path / "training", "patient001")
    write_cine(tmp_path / "testing", "patient101")
    assert [subject.name for subject in find_subjects(tmp_path).subjects] == ["patient001", "patient101"]


def test_paths_are_absolute_since_workers_live_elsewhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    (subject,) = find_subjects(Path(root.name)).subjects
    assert subject.frames[0].path.is_absolute()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*data\.root"):
        find_subjects(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no patient folders"):
        find_subjects(tmp_path)


def test_two_of_one_name_are_both_left_out(root: Path) -> None:
    write_cine(root / "training", "patient005")
    write_cine(root / "testing", "patient005")
    catalog = find_subjects(root)
    assert [subject.name for subject in catalog.subjects] == ["patient099"]
    told = [problem.message for problem in catalog.problems]
    assert len(told) == 2
    assert all(f"{part}/patient005" in "".join(told) for part in ("training", "testing"))


@pytest.mark.parametrize(
    ("ed", "es", "expected"),
    [
        (1, 9, "ES is frame 9, but the sequence has frames 1 to 8"),
        (0, 5, "ED is frame 0"),
        (4, 4, "both frame 4"),
        (1, "twelve", "ES is 'twelve'"),
    ],
)
def test_frames_that_are_not_in_the_cine(root: Path, ed: object, es: object, expected: str) -> None:
    write_cine(root, "patient001", ed=ed, es=es)
    assert expected in one_problem(find_subjects(root))


def test_missing_info(root: Path) -> None:
    (write_cine(root, "patient001").parent / "Info.cfg").unlink()
    assert "Info.cfg: cannot be read" in one_problem(find_subjects(root))


def test_info_without_systole(root: Path) -> None:
    (write_cine(root, "patient001").parent / "Info.cfg").write_text("ED: 1\nGroup: NOR\n")
    assert "add a line 'ES:" in one_problem(find_subjects(root))


def test_patient_without_scans(root: Path) -> None:
    (root / "patient001").mkdir()
    write_info(root / "patient001", ed=1, es=6, group="NOR")
    assert {problem.subject for problem in find_subjects(root).problems} == {"patient001"}


def test_unsafe_name(root: Path) -> None:
    write_cine(root, "patient 1;x")
    assert "rename it" in one_problem(find_subjects(root))


def test_no_nifti_at_all(root: Path) -> None:
    write_cine(root, "patient001").write_bytes(gzip.compress(b"not an image" * 100))
    assert "cannot be read as NIfTI" in one_problem(find_subjects(root))


def test_a_volume_in_the_place_of_a_cine(root: Path) -> None:
    write_cine(root, "patient001", np.ones((4, 4, 4), np.int16))
    assert "has 3 axes" in one_problem(find_subjects(root))


def test_complex_voxels(root: Path) -> None:
    write_cine(root, "patient001", np.ones((4, 4, 4, 8), np.complex64))
    assert "complex64 voxels" in one_problem(find_subjects(root))


def test_a_header_that_promises_too_much_is_found_before_anything_is_allocated(root: Path) -> None:
    path = write_cine(root, "patient001")
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()  # dim[1..3]
    path.write_bytes(gzip.compress(bytes(header)))
    assert "its header promises" in one_problem(find_subjects(root))


def test_a_singular_affine(root: Path) -> None:
    path = write_cine(root, "patient001")
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[280:296] = bytes(16)  # srow_x
    path.write_bytes(gzip.compress(bytes(header)))
    assert "affine is singular" in one_problem(find_subjects(root))


def test_single_frames_on_different_grids(root: Path) -> None:
    frames = {1: np.random.rand(6, 5, 4), 8: np.random.rand(6, 5, 3)}
    write_single_frames(root, "patient001", frames, ed=1, es=8)
    assert "not on the grid" in one_problem(find_subjects(root))


@pytest.mark.real_data
def test_real_patients(real_data: Path) -> None:
    catalog = find_subjects(real_data / "acdc")
    assert len(catalog.subjects) == 60
    assert catalog.problems == ()
    late = next(subject for subject in catalog.subjects if subject.name == "patient090")
    assert [frame.index for frame in late.frames] == list(range(3, 11))
    native = find_subjects(real_data / "acdc_native_edes")
    assert [len(subject.frames) for subject in native.subjects] == [2, 2, 2, 2]
    assert native.problems == ()
    first = native.subjects[0]
    assert first.spacing == pytest.approx((1.7578125, 1.7578125, 10)), "its affine says 1 mm"
    assert nib.load(first.frames[0].path).shape == (232, 256, 11)
