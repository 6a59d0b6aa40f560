from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sadm_ray.config import DataSettings
from sadm_ray.data.find import Catalog, find_subjects
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage
from tests.data.patients import write_cine, write_info, write_single_frames

FRAME = np.zeros((6, 5, 4), np.float32)


def find(root: Path | str, **settings: object) -> Catalog:
    return find_subjects(str(root), DataSettings.model_validate({"layout": "acdc", **settings}))


def problems_of_one(catalog: Catalog) -> list[str]:
    assert [subject.name for subject in catalog.subjects] == ["patient099"], "the good one stays"
    assert {problem.subject for problem in catalog.problems} <= {"patient001"}
    assert all(problem.fatal for problem in catalog.problems)
    return [f"{problem.file}: {problem.message}" for problem in catalog.problems]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A study that already has one good patient."""
    write_cine(tmp_path, "patient099")
    return tmp_path


def test_a_cine(tmp_path: Path) -> None:
    file = write_cine(tmp_path, "patient090", ed=4, es=8, group="RV")
    catalog = find(tmp_path)
    (subject,) = catalog.subjects
    (scan,) = subject.scans
    assert (subject.name, subject.group, subject.cycle, subject.split) == ("patient090", "RV", (4, 8), None)
    assert (scan.file, scan.session, scan.time) == ("patient090/patient090_4d.nii.gz", "", None)
    assert (scan.size, scan.modified) == (file.stat().st_size, file.stat().st_mtime_ns)
    assert catalog.problems == ()
    assert catalog.time_unit == "cardiac phase (ED 0, ES 1)"
    assert find(tmp_path, time_unit="s").time_unit == "s"


def test_a_cine_may_begin_with_systole(tmp_path: Path) -> None:
    write_cine(tmp_path, "patient001", ed=7, es=2)
    assert find(tmp_path).subjects[0].cycle == (7, 2)


def test_single_frames_without_the_label_maps(tmp_path: Path) -> None:
    folder = write_single_frames(tmp_path, "patient006", {4: FRAME, 16: FRAME}, ed=4, es=16)
    (subject,) = find(tmp_path).subjects
    assert [(Path(scan.file).name, scan.session, scan.time) for scan in subject.scans] == [
        ("patient006_frame04.nii.gz", "ED", 0.0),
        ("patient006_frame16.nii.gz", "ES", 1.0),
    ]
    assert subject.cycle is None
    write_info(folder, ed=16, es=4, group="DCM")
    (subject,) = find(tmp_path).subjects
    assert [(Path(scan.file).name, scan.session, scan.time) for scan in subject.scans] == [
        ("patient006_frame16.nii.gz", "ED", 0.0),
        ("patient006_frame04.nii.gz", "ES", 1.0),
    ]


@pytest.mark.parametrize("name", ["info.cfg", "INFO.CFG", "Info.Cfg"])
def test_info_in_any_case(tmp_path: Path, name: str) -> None:
    file = write_cine(tmp_path, "patient001", ed=2, es=5)
    (file.parent / "Info.cfg").rename(file.parent / name)
    catalog = find(tmp_path)
    assert (catalog.subjects[0].cycle, catalog.problems) == ((2, 5), ())
    (file.parent / name).write_text("ED: 1\n")
    assert find(tmp_path).problems[0].file.endswith(f"/{name}")


def unpack(file: Path, inner: str) -> Path:
    """Put a scan into a folder of its name, as some programs unpack archives."""
    content = file.read_bytes()
    file.unlink()
    folder = file.with_name(file.name.removesuffix(".gz"))
    folder.mkdir()
    (folder / inner).write_bytes(content)
    return folder


def test_scans_in_folders_of_their_names(tmp_path: Path) -> None:
    unpack(write_cine(tmp_path / "training", "patient001"), "patient001_4d.nii.gz")
    unpack(write_cine(tmp_path / "training", "patient002"), "cine.nii.gz")
    frames = write_single_frames(tmp_path / "testing", "patient101", {1: FRAME, 4: FRAME}, ed=1, es=4)
    for file in sorted(frames.glob("*.nii.gz")):
        unpack(file, file.name)
    catalog = find(tmp_path)
    assert catalog.problems == ()
    assert [[scan.file for scan in subject.scans] for subject in catalog.subjects] == [
        ["training/patient001/patient001_4d.nii/patient001_4d.nii.gz"],
        ["training/patient002/patient002_4d.nii/cine.nii.gz"],
        [f"testing/patient101/patient101_frame{n:02d}.nii/patient101_frame{n:02d}.nii.gz" for n in (1, 4)],
    ]
    assert all(scan.size > 0 for subject in catalog.subjects for scan in subject.scans)


def test_a_folder_of_several_scans_is_none(root: Path) -> None:
    folder = unpack(write_cine(root, "patient001"), "a.nii.gz")
    (folder / "b.nii.gz").write_bytes(b"another")
    assert [line for line in problems_of_one(find(root)) if "holds 2 scans; keep one" in line]


def test_scans_in_folders_behind_a_url(tmp_path: Path, s3_bucket: str) -> None:
    unpack(write_cine(tmp_path, "patient001"), "patient001_4d.nii.gz")
    bucket = Storage(f"{s3_bucket}/acdc")
    for path in ("Info.cfg", "patient001_4d.nii/patient001_4d.nii.gz"):
        bucket.write(f"patient001/{path}", (tmp_path / "patient001" / path).read_bytes())
    catalog = find(bucket.location)
    assert catalog.problems == ()
    assert catalog.subjects[0].scans[0].file == "patient001/patient001_4d.nii/patient001_4d.nii.gz"


def test_covariates(root: Path) -> None:
    lines = "ED: 1\nES: 5\nGroup: HCM\nHeight: 166.0\nWeight: heavy\nNbFrame: 25\n"
    (root / "patient099" / "Info.cfg").write_text(lines)
    assert find(root).subjects[0].covariates == {"height": 166.0, "group": "HCM"}


def test_both_parts_of_the_published_layout(tmp_path: Path) -> None:
    write_cine(tmp_path / "training", "patient001")
    write_cine(tmp_path / "testing", "patient101")
    (tmp_path / "training" / "Info.cfg").write_text("no patient\n")
    (tmp_path / "README.md").write_text("nor this\n")
    catalog = find(tmp_path)
    assert [subject.name for subject in catalog.subjects] == ["patient001", "patient101"]
    assert catalog.subjects[1].scans[0].file == "testing/patient101/patient101_4d.nii.gz"
    assert catalog.problems == ()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*data\.root"):
        find(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no patient folders.*data\.root.*data\.layout"):
        find(tmp_path)


def test_two_of_one_name_are_both_left_out(root: Path) -> None:
    write_cine(root / "training", "patient001")
    write_cine(root / "testing", "patient001")
    messages = problems_of_one(find(root))
    for line, part in zip(messages, ("testing", "training"), strict=True):
        assert line.startswith(f"{root}/{part}/patient001: another folder has the same name")


def remove_info(folder: Path) -> None:
    (folder / "Info.cfg").unlink()


def remove_scan(folder: Path) -> None:
    (folder / "patient001_4d.nii.gz").unlink()


def info(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "Info.cfg").write_bytes(content)

    return write


def link_info_to(target: str) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        remove_info(folder)
        (folder / "Info.cfg").symlink_to(target)

    return link


def info_is_a_pipe(folder: Path) -> None:
    remove_info(folder)
    os.mkfifo(folder / "Info.cfg")


def second_file(folder: Path) -> None:
    (folder / "patient001_4d.nii").write_bytes(b"another")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove_info, ["Info.cfg: no such file"]),
        (remove_scan, ["frame01.nii.gz: no such file, nor patient001_4d", "frame06.nii.gz: no such file"]),
        (second_file, ["two files for one scan, patient001_4d.nii and patient001_4d.nii.gz"]),
        (info(b"ED: 4\nES: 4\n"), ["both frame 4"]),
        (info(b"ED: 1\nES: twelve\n"), ["ES is 'twelve'"]),
        (info(b"ED: 1\nGroup: NOR\n"), ["add a line 'ES:"]),
        (info(b"\xff\xfe\x00broken"), ["has no ED", "has no ES"]),
        (info(b"ED: " + b"9" * 5000 + b"\nES: 2\n"), ["ED is '999"]),
        (info(b"ED: -1\nES: 2\n"), ["ED is '-1'"]),
        (info(b"x" * 70_000), ["has 70,000 bytes"]),
        (info(b""), ["Info.cfg: is empty"]),
        (link_info_to("nowhere"), ["Info.cfg: is empty, or a link to nothing"]),
        (link_info_to("/dev/zero"), ["Info.cfg: is empty"]),
        (info_is_a_pipe, ["Info.cfg: is empty"]),
    ],
)
def test_damaged_patients(root: Path, damage: Callable[[Path], None], expected: list[str]) -> None:
    damage(write_cine(root, "patient001").parent)
    messages = problems_of_one(find(root))
    assert len(messages) == len(expected)
    for line, part in zip(messages, expected, strict=True):
        assert part in line
        assert line.startswith(f"{root}/patient001/")


def test_a_byte_order_mark_is_no_part_of_a_key(root: Path) -> None:
    (root / "patient099" / "Info.cfg").write_bytes(b"\xef\xbb\xbfED: 2\r\nES: 5\r\n")
    assert find(root).subjects[0].cycle == (2, 5)


def test_unsafe_names(root: Path) -> None:
    for name in ("patient 1;x", "-rf", "patient" + "9" * 100):
        write_cine(root, name)
    catalog = find(root)
    assert len(catalog.subjects) == 1
    assert len(catalog.problems) == 3
    assert all("rename it" in problem.message for problem in catalog.problems)


@pytest.mark.real_data
def test_real_patients(real_data: Path) -> None:
    catalog = find(real_data / "acdc")
    assert len(catalog.subjects) == 60
    assert catalog.problems == ()
    late = next(subject for subject in catalog.subjects if subject.name == "patient090")
    assert late.cycle == (4, 11)
    assert {"height", "weight", "group"} == set(late.covariates)
    native = find(real_data / "acdc_native_edes")
    assert {len(subject.scans) for subject in native.subjects} == {2}
    assert native.problems == ()
