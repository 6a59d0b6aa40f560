from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sadm_ray.data.find.catalog import Problem, Scan, Subject
from sadm_ray.data.read import subject_scans
from sadm_ray.data.read.nifti_io import Image, read_image
from sadm_ray.data.read.subject_scans import Frame, ScanFacts, read_scans
from sadm_ray.storage import Storage
from tests.data.damage import FOUND_BY_VALUE, KINDS

AFFINE = np.array([[-1.5, 0.1, 0, 10], [0.1, -1.4, 0, -20], [0, 0, 8, 3], [0, 0, 0, 1]])
LIMIT = 10**9


def write(path: Path, shape: tuple[int, ...] = (9, 8, 7), seed: int = 0, affine: np.ndarray = AFFINE) -> np.ndarray:
    anatomy = np.random.default_rng(99).integers(0, 800, shape[:3]).reshape(*shape[:3], *(1,) * (len(shape) - 3))
    voxels = (anatomy + np.random.default_rng(seed).integers(0, 100, shape)).astype(np.int16)
    path.parent.mkdir(exist_ok=True, parents=True)
    image = nib.Nifti1Image(voxels, affine)
    if len(shape) == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], 0.5))
    nib.save(image, path)
    return voxels


def scan(root: Path, file: str, time: float | None, session: str = "") -> Scan:
    """As the catalog lists it."""
    entry = next(entry for entry in Storage(str(root)).entries() if entry.path == file)
    return Scan(file, session, time, entry.size, entry.modified, {"visit": session})


def visits(root: Path, *files: str) -> Subject:
    subject_scans = (scan(root, file, 10.0 * number, f"ses-{number}") for number, file in enumerate(files))
    return Subject("sub-1", tuple(subject_scans))


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder of three visits: 0.nii.gz, 1.nii.gz, 2.nii.gz."""
    for number in range(3):
        write(tmp_path / f"{number}.nii.gz", seed=number)
    return tmp_path


Found = tuple[list[Frame], list[ScanFacts], list[Problem]]


def read(root: Path, subject: Subject, limit: int = LIMIT) -> Found:
    frames, facts, problems = [], [], []
    for found in read_scans(subject, Storage(str(root)), limit):
        if isinstance(found, Frame):
            frames.append(found)
        elif isinstance(found, ScanFacts):
            assert frames[-1].file == found.file, "facts come after the frames"
            facts.append(found)
        else:
            problems.append(found)
    return frames, facts, problems


def refused(root: Path, subject: Subject, *expected: str) -> None:
    """Nothing of the subject is used, for exactly these reasons."""
    frames, facts, problems = read(root, subject)
    assert (frames, facts) == ([], [])
    assert len(problems) == len(expected), problems
    for problem, part in zip(problems, expected, strict=True):
        assert part in problem.message
        assert ";" in problem.message
        assert problem.fatal


def test_visits_come_in_order_with_their_times_and_facts(three: Path) -> None:
    frames, facts, problems = read(three, visits(three, "0.nii.gz", "1.nii.gz", "2.nii.gz"))
    assert problems == []
    assert [(frame.file, frame.session, frame.time, frame.index) for frame in frames] == [
        ("0.nii.gz", "ses-0", 0, None),
        ("1.nii.gz", "ses-1", 10, None),
        ("2.nii.gz", "ses-2", 20, None),
    ]
    assert frames[2].covariates == {"visit": "ses-2"}
    voxels = np.asarray(nib.load(three / "1.nii.gz").dataobj)
    np.testing.assert_array_equal(frames[1].volume, voxels.T)
    fact = facts[1]
    assert (fact.file, fact.session, fact.shape, fact.count) == ("1.nii.gz", "ses-1", (9, 8, 7), 1)
    assert (fact.orientation, fact.dtype) == ("LPS", "int16")
    assert (fact.low, fact.high) == (voxels.min(), voxels.max())
    assert fact.size == (three / "1.nii.gz").stat().st_size
    assert len(fact.sha256) == 64
    np.testing.assert_allclose(fact.affine, AFFINE, rtol=1e-6)
    assert frames[1].without_volume().volume.size == 0
    assert replace(frames[1].without_volume(), volume=frames[1].volume).file == "1.nii.gz"


@pytest.mark.parametrize(
    ("cycle", "expected"),
    [((2, 5), [1, 2, 3, 4]), ((5, 2), [4, 5, 0, 1]), ((6, 1), [5, 0]), ((3, 2), [2, 3, 4, 5, 0, 1])],
)
def test_a_cine_is_read_from_end_diastole_to_end_systole(
    tmp_path: Path, cycle: tuple[int, int], expected: list[int]
) -> None:
    voxels = write(tmp_path / "p" / "p_4d.nii.gz", (9, 8, 7, 6))
    subject = Subject("p", (scan(tmp_path, "p/p_4d.nii.gz", None),), cycle=cycle)
    frames, facts, problems = read(tmp_path, subject)
    assert problems == []
    assert [frame.index for frame in frames] == expected
    assert [frame.time for frame in frames] == pytest.approx(np.linspace(0, 1, len(expected)))
    for frame, index in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame.volume, voxels[..., index].T)
    (fact,) = facts
    assert fact.count == 6
    assert (fact.low, fact.high) == (voxels[..., expected].min(), voxels[..., expected].max())


def test_a_cine_with_faults_is_left_out(tmp_path: Path) -> None:
    voxels = write(tmp_path / "4d.nii.gz", (9, 8, 7, 6)).astype(np.float32)
    subject = Subject("p", (scan(tmp_path, "4d.nii.gz", None),), cycle=(1, 4))
    refused(tmp_path, replace(subject, cycle=(1, 7)), "ES is frame 7, but the cine has frames 1 to 6")
    refused(tmp_path, replace(subject, cycle=(0, 9)), "ED is frame 0", "ES is frame 9")
    voxels[3, 3, 3, 5] = np.nan
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "4d.nii.gz")
    subject = Subject("p", (scan(tmp_path, "4d.nii.gz", None),), cycle=(1, 4))
    assert len(read(tmp_path, subject)[0]) == 4, "frames that are not used may be what they are"
    refused(tmp_path, replace(subject, cycle=(3, 6)), "frame 6 of 6: 1 of 504 voxels are NaN")
    voxels[..., 4] = 7
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "4d.nii.gz")
    subject = Subject("p", (scan(tmp_path, "4d.nii.gz", None),), cycle=(3, 6))
    refused(tmp_path, subject, "frame 5 of 6 (and 1 more): every voxel is 7")


def test_a_volume_is_no_cine(three: Path) -> None:
    subject = Subject("p", (scan(three, "0.nii.gz", None),), cycle=(1, 4))
    refused(three, subject, "holds a single volume")


@pytest.mark.parametrize(
    ("step", "unit", "expected", "told"),
    [
        (0.5, 8, 0.5, ""),
        (40, 16, 0.04, ""),
        (40000, 24, 0.04, ""),
        (0.04, 8 | 2, 0.04, ""),
        (0.5, 0, 0.5, "names no unit of the time between frames, 0.5; seconds are assumed"),
        (0.5, 32, 0.5, "names no unit"),  # hertz
        (0, 8, 1, "has no time between frames (0); their numbers from 0 are used"),
        (np.nan, 8, 1, "has no time between frames (nan)"),
        (-2, 16, 1, "has no time between frames"),
    ],
)
def test_a_series_has_the_times_of_its_header(
    tmp_path: Path, step: float, unit: int, expected: float, told: str
) -> None:
    write(tmp_path / "series.nii", (9, 8, 7, 4))
    data = bytearray((tmp_path / "series.nii").read_bytes())
    data[92:96] = np.array(step, "<f4").tobytes()
    data[123] = unit
    (tmp_path / "series.nii").write_bytes(data)
    frames, _, problems = read(tmp_path, Subject("s", (scan(tmp_path, "series.nii", None),)))
    assert [told in problem.message and not problem.fatal for problem in problems] == [True] * bool(told)
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [frame.time for frame in frames] == [expected * index for index in range(4)]


def test_what_is_no_sequence(three: Path) -> None:
    write(three / "series.nii", (9, 8, 7, 4))
    refused(three, Subject("s", (scan(three, "0.nii.gz", None),)), "only one visit; at least two are needed")
    refused(three, Subject("s", (scan(three, "series.nii", 3.0),)), "4 frames where a visit")
    several = Subject("s", (scan(three, "series.nii", None), scan(three, "0.nii.gz", None)))
    refused(three, several, "has no time", "has no time", "no usable visit")
    refused(three, Subject("s", ()), "no usable visit")


def test_one_visit_is_not_enough(three: Path) -> None:
    frames, _, problems = read(three, visits(three, "1.nii.gz"))
    assert len(frames) == 1
    (problem,) = problems
    assert problem.fatal
    assert str(problem) == (
        f"sub-1: {three}/1.nii.gz: only one usable visit; at least two are needed: mend or add visits"
    )


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_visit_of_several_frames_is_left_out_and_the_others_go_on(three: Path, bad: int) -> None:
    write(three / f"{bad}.nii.gz", (9, 8, 7, 3))
    frames, facts, problems = read(three, visits(three, "0.nii.gz", "1.nii.gz", "2.nii.gz"))
    assert [frame.time for frame in frames] == [10 * number for number in range(3) if number != bad]
    assert len(facts) == 2
    (problem,) = problems
    assert problem.fatal
    assert problem.file == f"{three}/{bad}.nii.gz"
    assert "3 frames where a visit is one volume" in problem.message


def test_visits_elsewhere_are_left_out(three: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 1
    write(three / "1.nii.gz", affine=moved)
    write(three / "3.nii.gz", (9, 8, 6))
    frames, _, problems = read(three, visits(three, *(f"{number}.nii.gz" for number in range(4))))
    assert [frame.file for frame in frames] == ["0.nii.gz", "2.nii.gz"]
    assert [problem.message[: problem.message.index("(")] for problem in problems] == [
        "not on the grid of 0.nii.gz "
    ] * 2
    (three / "0.nii.gz").write_bytes(b"")
    frames, _, problems = read(three, visits(three, "0.nii.gz", "2.nii.gz", "1.nii.gz"))
    assert [frame.file for frame in frames] == ["2.nii.gz"], "the first good one is the reference"
    assert [problem.message.split("; ")[0] for problem in problems] == [
        "empty, or no regular file",
        "not on the grid of 2.nii.gz (up to 1 mm off)",
        "only one usable visit",
    ]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_whatever_the_damage_the_other_visits_go_on(three: Path, kind: str) -> None:
    for seed in range(4 if "flipped" in kind else 1):
        name = f"damaged{seed}.nii.gz"
        KINDS[kind](three / name, three / "1.nii.gz", np.random.default_rng(seed))
        frames, _, problems = read(three, visits(three, "0.nii.gz", name, "2.nii.gz"))
        assert [frame.file for frame in frames] == ["0.nii.gz", "2.nii.gz"]
        assert problems
        for problem in problems:
            assert problem.fatal
            assert problem.file == f"{three}/{name}"
            assert "; " in problem.message
            assert "report a bug" not in problem.message


@pytest.mark.parametrize("kind", sorted(FOUND_BY_VALUE))
def test_values_that_are_no_image(three: Path, kind: str) -> None:
    write(three / "good.nii.gz", (9, 8, 7, 3))
    KINDS[kind](three / "4d.nii.gz", three / "good.nii.gz", np.random.default_rng(0))
    for cycle in (None, (1, 3)):
        subject = Subject("s", (scan(three, "4d.nii.gz", None),), cycle=cycle)
        refused(three, subject, "frame 1 of 3 (and 2 more): ")


def test_reset_spacing_is_a_warning_once(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.nii", seed=number, affine=np.eye(4))
    frames, _, problems = read(tmp_path, visits(tmp_path, "0.nii", "1.nii", "2.nii"))
    assert len(frames) == 3
    (problem,) = problems
    assert not problem.fatal
    assert "looks reset" in problem.message


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (MemoryError(), "does not fit the memory"),
        (RuntimeError("some\nbug"), "RuntimeError: some bug; look at the file or report a bug"),
        (ValueError(), "ValueError:; look at"),
    ],
)
def test_an_unexpected_error_costs_one_visit(
    three: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: str
) -> None:
    def read_one(storage: Storage, file: str, size: int, limit: int) -> Image:
        if file == "1.nii.gz":
            raise raised
        return read_image(storage, file, size, limit)

    monkeypatch.setattr(subject_scans, "read_image", read_one)
    frames, _, problems = read(three, visits(three, "0.nii.gz", "1.nii.gz", "2.nii.gz"))
    assert len(frames) == 2
    assert expected in problems[0].message


def test_only_one_file_is_in_memory_at_a_time(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = weakref.WeakSet[Image]()
    (three / "bad.nii.gz").write_bytes(b"")
    KINDS["NaN"](three / "nan.nii.gz", three / "0.nii.gz", np.random.default_rng(0))
    write(three / "elsewhere.nii.gz", (9, 8, 3))

    def read_one(storage: Storage, file: str, size: int, limit: int) -> Image:
        gc.collect()
        assert not alive, "the file before is still there"
        image = read_image(storage, file, size, limit)
        alive.add(image)
        return image

    monkeypatch.setattr(subject_scans, "read_image", read_one)
    order = ("0.nii.gz", "nan.nii.gz", "1.nii.gz", "bad.nii.gz", "elsewhere.nii.gz", "2.nii.gz")
    assert len(read(three, visits(three, *order))[0]) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(three: Path) -> None:
    (three / "1.nii.gz").chmod(0)
    _, _, problems = read(three, visits(three, "0.nii.gz", "1.nii.gz", "2.nii.gz"))
    assert "cannot be read" in problems[0].message


@pytest.mark.real_data
def test_real_subjects(real_data: Path) -> None:
    def listed(folder: str, pattern: str) -> Iterator[str]:
        return (path.relative_to(real_data).as_posix() for path in sorted((real_data / folder).glob(pattern)))

    for folder, pattern, count in (
        ("acdc_native_edes/patient006", "*_frame??.nii.gz", 2),
        ("brain_growth_bids/sub-crlsb", "ses-*/anat/*_T2w.nii.gz", 14),
        ("ms_two_visits_bids/sub-12", "ses-*/anat/*_FLAIR.nii.gz", 2),
    ):
        frames, facts, problems = read(real_data, visits(real_data, *listed(folder, pattern)))
        assert (len(frames), len(facts)) == (count, count)
        told = [problem.message[:20] for problem in problems]
        assert told == ["pixdim has voxels of"] * (folder == "acdc_native_edes/patient006")
    pig = Subject("pig", (scan(real_data, "pig_cine_cc0/pig_E774_sax_4d.nii.gz", None),))
    frames, facts, problems = read(real_data, pig)
    assert (len(frames), facts[0].count, problems) == (20, 20, [])
    late = "acdc/training/patient090/patient090_4d.nii.gz"
    frames, facts, problems = read(real_data, Subject("patient090", (scan(real_data, late, None),), cycle=(4, 11)))
    assert [frame.index for frame in frames] == list(range(3, 11))
    assert ["looks reset" in problem.message for problem in problems] == [True]
    assert facts[0].dtype == "float32"
