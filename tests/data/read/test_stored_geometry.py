"""Where a header puts its voxels: kept as it stands in the file, written again, and odd ones told."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sadm_ray.config import DataSettings
from sadm_ray.data.find.catalog import Problem, Scan, Subject
from sadm_ray.data.inspect.inspection import inspect_subject
from sadm_ray.data.read.nifti_io import HEADERS, nifti_bytes, read_image
from sadm_ray.data.read.stored_geometry import StoredGeometry
from sadm_ray.data.read.subject_scans import read_scans
from sadm_ray.data.shards.subject_row import ROW_SCHEMA, parse_row, prepare_subject, with_all_columns
from sadm_ray.generate.bids_names import SubjectNames
from sadm_ray.generate.volume_writer import Predicted, SubjectWriter
from sadm_ray.storage import Storage

SHAPE = (16, 14, 12)
FIELDS = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
FIELDS = (*FIELDS, "srow_x", "srow_y", "srow_z", "xyzt_units", "pixdim")


def turned(degrees: float, sizes: tuple[float, float, float] = (1.5, 1.5, 2.0), shear: float = 0) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(sizes)
    affine[0, 2] += shear
    affine[:3, 3] = -20, 11, 7
    return affine


def save(path: Path, affine: np.ndarray, kind: Any = nib.Nifti1Image, seed: int = 1, **fields: Any) -> Path:
    """A scan, then fields of its header changed in the file as it lies, and nothing else."""
    anatomy = np.random.default_rng(99).integers(0, 900, SHAPE)
    voxels = (anatomy + np.random.default_rng(seed).integers(0, 100, SHAPE)).astype(np.int16)
    image = kind(voxels, affine)
    image.set_qform(affine, 1)
    raw = bytearray(image.to_bytes())
    size = int(image.header["sizeof_hdr"])
    header = HEADERS[size](bytes(raw[:size]), check=False)
    for key, value in fields.items():
        header[key] = value
    raw[:size] = header.binaryblock
    path.write_bytes(bytes(raw))
    return path


def header_of(content: bytes) -> Any:
    raw = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    size = int.from_bytes(raw[:4], "little")
    return HEADERS[size](raw[:size], check=False)


def scans_of(*paths: Path) -> tuple[Scan, ...]:
    return tuple(
        Scan(file=path.name, size=path.stat().st_size, modified=1, session=path.stem, time=float(time), covariates={})
        for time, path in enumerate(paths)
    )


def qform_of(affine: np.ndarray) -> dict[str, Any]:
    header = nib.Nifti1Header()
    header.set_qform(affine, 1)
    names = ("qform_code", *FIELDS[2:8])
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return {name: header[name].item() for name in names} | {"pixdim": [header["pixdim"][0], *sizes, 0, 0, 0, 0]}


MIRRORED = np.diag([-1.5, 1.5, 2.0, 1])

CASES: Mapping[str, Callable[[Path], Path]] = {
    "both alike": lambda path: save(path, turned(25)),
    "qform alone": lambda path: save(path, turned(25), sform_code=0),
    "sform alone": lambda path: save(path, turned(25), qform_code=0),
    "no codes": lambda path: save(path, turned(0), qform_code=0, sform_code=0),
    "registered to a template": lambda path: save(path, turned(25), sform_code=4, **qform_of(turned(-10))),
    "mirrored": lambda path: save(path, np.diag([1.5, 1.5, 2.0, 1]), sform_code=2, **qform_of(MIRRORED)),
    "mirrored by pixdim": lambda path: save(path, turned(25), pixdim=[-1, 1.5, 1.5, 2, 0, 0, 0, 0]),
    "sheared": lambda path: save(path, turned(10, shear=0.7), qform_code=0),
    "sheared beside a qform": lambda path: save(path, turned(10, shear=0.7), qform_code=1),
    "other sizes": lambda path: save(path, np.diag([1.0, 1, 1, 1]), pixdim=[1, 1.5, 1.5, 10, 1, 0, 0, 0]),
    "micrometres": lambda path: save(path, turned(25, (50, 50, 80)), xyzt_units=3 | 16),
    "metres": lambda path: save(path, turned(25, (0.0015, 0.0015, 0.002)), xyzt_units=1),
    "metres that are mm": lambda path: save(path, turned(25), xyzt_units=1 | 8),
    "no units": lambda path: save(path, turned(25), xyzt_units=0),
    "milliseconds": lambda path: save(path, turned(25), xyzt_units=2 | 16, qform_code=4, sform_code=4),
    "NIfTI-2": lambda path: save(path, turned(25) / 3, kind=nib.Nifti2Image, sform_code=3),
    "sizes in a time": lambda path: save(path, turned(25), pixdim=[1, 1.5, 1.5, 2, 0.03, 0, 0, 0]),
}


def writer_of(folder: Path, row: dict[str, Any]) -> SubjectWriter:
    return SubjectWriter(Storage(str(folder)), SubjectNames(row, "p", "t"), row)


def rows_of(tmp_path: Path, name: str) -> tuple[Path, dict[str, Any], tuple[Problem, ...]]:
    first = CASES[name](tmp_path / "first.nii")
    second = tmp_path / "second.nii"
    raw = bytearray(first.read_bytes())
    raw[-2:] = b"\x11\x01"  # another scan by a voxel
    second.write_bytes(raw)
    settings = DataSettings(layout="manifest", frames=None, shape=(4, 8, 8))
    prepared = prepare_subject(Subject("p", scans_of(first, second)), Storage(str(tmp_path)), settings)
    assert prepared.row is not None, prepared.problems
    return first, prepared.row, prepared.problems


@pytest.mark.parametrize("name", CASES)
def test_what_is_generated_has_the_geometry_of_its_source(name: str, tmp_path: Path) -> None:
    first, row, _ = rows_of(tmp_path, name)
    stored = pa.Table.from_pylist([row], schema=ROW_SCHEMA).to_pylist()[0]
    writer = writer_of(tmp_path / "out", parse_row(stored))
    volume = np.random.default_rng(0).random((4, 8, 8), dtype=np.float32)
    writer.write_frame(1, 1.0, Predicted(volume, volume[:0, None]), ["estimate"], {})
    writer.write_sequence([(0.0, False, volume), (1.0, True, volume)], {})
    source = header_of(first.read_bytes())
    single, sequence = (
        next((tmp_path / "out").rglob(f"*_desc-t{estimate}_synth.nii.gz")).read_bytes()
        for estimate in ("Estimate", "Sequence")
    )
    written = header_of(single)
    for field in FIELDS:
        np.testing.assert_array_equal(written[field], source[field].astype(written[field].dtype), err_msg=field)
    assert type(written) is nib.Nifti1Header, "ITK reads no NIfTI-2"
    many = header_of(sequence)
    for field in FIELDS[:-2]:
        np.testing.assert_array_equal(many[field], source[field].astype(many[field].dtype), err_msg=field)
    np.testing.assert_array_equal(many["pixdim"][:4], source["pixdim"][:4].astype(np.float32))
    assert many["xyzt_units"] == int(source["xyzt_units"]) & 7, "the steps of a sequence have no unit that is known"
    path = tmp_path / "again.nii.gz"
    path.write_bytes(single)
    exact = type(nib.load(first)) is nib.Nifti1Image
    np.testing.assert_allclose(nib.load(path).affine, nib.load(first).affine, rtol=0 if exact else 1e-6)
    assert nib.load(path).shape == nib.load(first).shape


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("both alike", []),
        ("qform alone", []),
        ("sform alone", []),
        ("milliseconds", []),
        ("no units", []),
        ("NIfTI-2", []),
        ("sheared", []),
        ("no codes", ["neither qform nor sform"]),
        ("registered to a template", [r"its qform puts its voxels up to 17\.9 mm from where its sform does"]),
        ("mirrored", ["its qform puts its voxels up to 45 mm from"]),
        ("other sizes", ["its qform puts", "pixdim has voxels of 1.5 × 1.5 × 10 mm, the affine of 1 × 1 × 1 mm"]),
        ("micrometres", ["counts in µm: voxels of 50 × 50 × 80 µm are 0.05 × 0.05 × 0.08 mm"]),
        ("metres", ["counts in m: voxels of 0.0015 × 0.0015 × 0.002 m are 1.5 × 1.5 × 2 mm"]),
        ("metres that are mm", ["counts in m, .* 1.5e\\+03 × 1.5e\\+03 × 2e\\+03 mm; taken as mm"]),
    ],
)
def test_what_is_odd_is_told_once_a_subject_with_the_file(name: str, says: list[str], tmp_path: Path) -> None:
    first, _, problems = rows_of(tmp_path, name)
    told = [problem for problem in problems if "reset to 1 mm" not in problem.message]
    assert len(told) == len(says), told
    for problem, expected in zip(told, says, strict=True):
        assert re.search(expected, problem.message), problem.message
        assert (problem.subject, problem.file, problem.fatal) == ("p", str(first), False)
        assert ";" in problem.message, "the mend"
        assert "\n" not in str(problem)


def test_a_later_file_that_is_odd_is_told_too(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.nii", turned(25))]
    for seed, name in enumerate("bcd"):
        path = tmp_path / f"{name}.nii"
        paths.append(save(path, turned(25), seed=seed + 2, sform_code=4, **qform_of(turned(-10))))
    subject = Subject("p", scans_of(*paths))
    problems = [found for found in read_scans(subject, Storage(str(tmp_path)), 10**9) if isinstance(found, Problem)]
    assert [Path(problem.file).name for problem in problems] == ["b.nii"]
    record, inspected = inspect_subject(subject, str(tmp_path), DataSettings(), "years", None)
    assert record["usable"]
    assert inspected == problems


@pytest.mark.parametrize(
    ("unit", "sizes", "mm"),
    [
        (0, (1.5, 1.5, 2), 1),
        (2, (1.5, 1.5, 2), 1),
        (3, (50, 50, 80), 1e-3),
        (3, (1500, 1500, 2000), 1e-3),
        (1, (0.0015, 0.0015, 0.002), 1e3),
        (1, (1.5, 1.5, 2.0), 1),  # a voxel of 1.5 m is no voxel of a body
        (3, (0.9, 0.9, 0.9), 1),
    ],
)
def test_affine_and_sizes_are_in_mm(unit: int, sizes: tuple[float, float, float], mm: float, tmp_path: Path) -> None:
    path = save(tmp_path / "s.nii", turned(30, sizes), xyzt_units=unit)
    image = read_image(Storage(str(tmp_path)), path.name, path.stat().st_size, 10**9)
    np.testing.assert_allclose(image.spacing, np.array(sizes) * mm, rtol=1e-6)
    expected = nib.load(path).affine
    expected[:3] *= mm
    np.testing.assert_allclose(image.affine, expected, rtol=1e-6)


def test_two_visits_in_different_units_lie_on_one_grid(tmp_path: Path) -> None:
    affine = turned(30)
    in_micrometres = affine.copy()
    in_micrometres[:3] *= 1000
    first, second = tmp_path / "a.nii", tmp_path / "b.nii"
    scans = scans_of(save(first, affine), save(second, in_micrometres, seed=2, xyzt_units=3))
    found = list(read_scans(Subject("p", scans), Storage(str(tmp_path)), 10**9))
    assert [each.fatal for each in found if isinstance(each, Problem)] == [False]


def test_a_row_of_an_earlier_version_is_read_and_written_as_before(tmp_path: Path) -> None:
    _, row, _ = rows_of(tmp_path, "registered to a template")
    old = ROW_SCHEMA.remove(ROW_SCHEMA.get_field_index("header"))
    table = pa.Table.from_pylist([{key: value for key, value in row.items() if key != "header"}], schema=old)
    new = pa.Table.from_pylist([row], schema=ROW_SCHEMA)
    both = pa.concat_tables([with_all_columns(table), with_all_columns(new)]).to_pylist()
    assert [each["header"] is None for each in both] == [True, False]
    earlier = parse_row(table.to_pylist()[0])
    assert earlier["header"] is None
    writer = writer_of(tmp_path / "out", earlier)
    writer.write_frame(1, 1.0, Predicted(np.ones((4, 8, 8), np.float32), np.ones((0, 4, 8, 8))), ["estimate"], {})
    content = next((tmp_path / "out").rglob("*_desc-tEstimate_synth.nii.gz")).read_bytes()
    shape = np.asarray(nib.load(tmp_path / "first.nii").shape)[::-1]
    expected = header_of(nifti_bytes(np.zeros(shape, np.float32), earlier["affine"], earlier["spacing"].tolist()))
    written = header_of(content)
    for field in FIELDS:
        np.testing.assert_array_equal(written[field], expected[field], err_msg=field)


@pytest.mark.parametrize("bad", [{"srow_x": [np.nan] * 4, "sform_code": 0}, {"quatern_b": np.inf, "qform_code": 0}])
def test_numbers_that_are_none_are_not_written(bad: dict[str, Any], tmp_path: Path) -> None:
    path = save(tmp_path / "s.nii", turned(30), **bad)
    image = read_image(Storage(str(tmp_path)), path.name, path.stat().st_size, 10**9)
    json.loads(image.stored.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert StoredGeometry.from_json(image.stored.to_json()) == image.stored


def test_a_qform_that_is_no_rotation_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "s.nii", turned(30), quatern_b=0.9, quatern_c=0.9)
    image = read_image(Storage(str(tmp_path)), path.name, path.stat().st_size, 10**9)
    assert "its qform is no rotation" in image.remarks["forms"]


@given(st.binary(min_size=348, max_size=348))
def test_any_header_gives_fields_that_json_can_hold(block: bytes) -> None:
    stored = StoredGeometry.of(nib.Nifti1Header(block, check=False))
    assert StoredGeometry.from_json(stored.to_json()) == stored
