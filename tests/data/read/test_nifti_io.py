"""Volumes that are read: as nibabel reads them, and within bounds for every kind of damage."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from sadm_ray.data.read.nifti_io import Image, is_sound, read_image
from sadm_ray.errors import DataError
from sadm_ray.storage import Storage
from tests.data.damage import FOUND_BY_VALUE, KINDS
from tests.data.read.test_nifti_written import oblique


class SlowStorage(Storage):
    """A storage whose files are bytes, and whose streams can do no more than `read`, a little at a time."""

    def open(self, path: str) -> io.BytesIO:
        return SlowStream(Path(self.where(path)).read_bytes())


class SlowStream(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert 0 < size <= 2**18, "never the whole file at once"
        return super().read(min(size, 1000))


def load(path: Path, limit: int = 10**9, storage: type[Storage] = Storage) -> Image:
    """Read a file as it is listed."""
    folder = storage(str(path.parent))
    sizes = {entry.path: entry.size for entry in folder.entries()}
    return read_image(folder, path.name, sizes[path.name], limit)


def save(path: Path, image: object) -> Path:
    nib.save(image, path)
    return path


def cine(path: Path, dtype: str = "<i2", kind: Any = nib.Nifti1Image, shape: tuple[int, ...] = (7, 6, 5, 4)) -> Path:
    """A sound file of random voxels."""
    image = kind(np.random.default_rng(3).integers(0, 100, shape).astype(dtype), oblique())
    image.header.set_data_dtype(np.dtype(dtype))
    return save(path, image)


def agrees(image: Image, path: Path) -> None:
    """The image is what nibabel makes of the file."""
    theirs = nib.load(path)
    values = theirs.get_fdata()
    assert image.shape == values.shape[:3]
    np.testing.assert_array_equal(image.affine, theirs.affine)
    np.testing.assert_allclose(image.spacing, theirs.header.get_zooms()[:3])
    for index in range(image.count):
        frame = image.frame(index)
        expected = (values if values.ndim == 3 else values[..., index]).T
        assert frame.dtype == np.float32
        assert frame.flags.c_contiguous
        np.testing.assert_allclose(frame, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<u2", ">i4", "<i8", "<f4", ">f4", "<f8", ">f8", "<u8"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_type_and_byte_order_reads_as_in_nibabel(tmp_path: Path, dtype: str, kind: Any) -> None:
    header = kind.header_class(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(np.dtype(dtype))
    voxels = np.random.default_rng(0).integers(0, 100, (7, 6, 5, 4)).astype(dtype)
    path = save(tmp_path / "scan.nii.gz", kind(voxels, oblique(), header))
    image = load(path)
    agrees(image, path)
    assert image.count == 4
    assert image.dtype == np.dtype(dtype).name
    assert image.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_scale_factors_are_applied_in_double_precision(tmp_path: Path, suffix: str) -> None:
    path = cine(tmp_path / f"plain{suffix}")
    scaled = nib.Nifti1Image(np.asarray(nib.load(path).dataobj), oblique())
    scaled.header.set_slope_inter(1e-3, 30000)
    image = load(save(path, scaled))
    assert (image.slope, image.inter) == (pytest.approx(1e-3), 30000)
    agrees(image, path)
    values = nib.load(path).get_fdata()[..., 2].T
    np.testing.assert_array_equal(image.frame(2), values.astype(np.float32))


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_of_nothing_is_none(tmp_path: Path, slope: float) -> None:
    path = cine(tmp_path / "scan.nii")
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([slope, 1000], "<f4").tobytes()
    path.write_bytes(data)
    image = load(path)
    np.testing.assert_array_equal(image.frame(0), image.raw[..., 0].T)


@pytest.mark.parametrize(
    ("shape", "count"),
    [((5, 4, 3), 1), ((5, 4, 1), 1), ((5, 4, 3, 1), 1), ((5, 4, 3, 1, 1), 1), ((5, 4, 3, 2, 1), 2), ((1, 1, 9, 7), 7)],
)
def test_trailing_axes_of_one_voxel_do_not_count(tmp_path: Path, shape: tuple[int, ...], count: int) -> None:
    voxels = np.random.default_rng(0).integers(0, 9, shape).astype(np.uint8)
    image = load(save(tmp_path / "scan.nii.gz", nib.Nifti1Image(voxels, np.eye(4))))
    assert (image.shape, image.count) == (shape[:3], count)
    np.testing.assert_array_equal(image.raw.ravel(), voxels.ravel())


def test_gzip_is_known_by_its_bytes(tmp_path: Path) -> None:
    plain = cine(tmp_path / "scan.nii")
    posing, members = tmp_path / "posing.nii.gz", tmp_path / "members.nii"
    posing.write_bytes(plain.read_bytes())
    data = plain.read_bytes()
    members.write_bytes(gzip.compress(data[:100]) + gzip.compress(b"") + gzip.compress(data[100:]) + bytes(700))
    for path in (posing, members):
        np.testing.assert_array_equal(load(path).raw, load(plain).raw)
        assert load(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_streams_that_give_a_little_at_a_time(tmp_path: Path) -> None:
    for name in ("scan.nii", "scan.nii.gz"):
        path = cine(tmp_path / name, shape=(40, 30, 20, 3))
        agrees(load(path, storage=SlowStorage), path)


def test_header_extensions_are_skipped(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3), oblique())
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 3_000_000))
    for name in ("scan.nii", "scan.nii.gz"):
        agrees(load(save(tmp_path / name, image)), tmp_path / name)


def test_zeros_that_fill_up_a_block_are_no_damage(tmp_path: Path) -> None:
    path = cine(tmp_path / "scan.nii")
    data = path.read_bytes()
    path.write_bytes(data + bytes(100))
    assert load(path).count == 4
    path.write_bytes(data + bytes(7 * 6 * 5 * 2))  # a frame more
    with pytest.raises(DataError, match="more voxels than its header promises"):
        load(path)


def test_the_time_between_frames_is_as_it_stands(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((5, 4, 3, 2), np.uint8), np.eye(4))
    image.header.set_zooms((1, 1, 1, 32.5))
    assert load(save(tmp_path / "cine.nii", image)).time_step == 32.5
    assert load(save(tmp_path / "volume.nii", image.slicer[..., 0])).time_step == 0


def test_invalid_voxel_sizes_are_replaced_by_those_of_the_affine(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", nib.Nifti1Image(np.ones((5, 4, 3), np.uint8), oblique()))
    data = bytearray(path.read_bytes())
    data[252:254] = bytes(2)  # no qform
    data[80:92] = np.array([0, -1.3, np.nan], "<f4").tobytes()
    path.write_bytes(data)
    np.testing.assert_allclose(load(path).spacing, np.linalg.norm(oblique()[:3, :3], axis=0))


EXPECTED = {
    "truncated .nii": "breaks off|it is truncated",
    "truncated gzip": "breaks off|damaged|it is truncated|no NIfTI",
    "truncated before gzip": "breaks off|it is truncated",
    "truncated checksum": "breaks off",
    "rubbish behind gzip": "damaged gzip",
    "surplus": "more voxels than",
    "surplus in gzip": "more voxels than",
    "no axes": "impossible shape",
    "two axes": "has the axes",
    "five axes": "has the axes",
    "eight axes": "impossible shape",
    "axis of no size": "impossible shape",
    "axis of negative size": "impossible shape",
    "promises 100 GB": "it is truncated or broken",
    "promises the most there can be": "it is truncated or broken",
    "RGB": "holds .* voxels; convert",
    "complex": "holds complex64 voxels; convert",
    "unknown type": "unknown data type",
    "type against bits": "contradicts itself",
    "huge offset": "first voxel at byte",
    "offset beyond the end": "breaks off|it is truncated",
    "NaN offset": "first voxel at byte nan",
    "negative offset": "first voxel at byte -352",
    "infinite slope": "scale factors",
    "NaN intercept": "scale factors",
    "NaN affine": "affine holds NaN",
    "singular affine": "affine is singular",
    "flat affine": "affine is singular",
    "affine in kilometres": r"1e\+06 mm",
    "no rotation": "makes no sense",
    "no voxel sizes": "no valid voxel sizes",
    "half of a pair": "half of a pair",
    "header alone": "it is truncated",
    "bomb behind the voxels": "more voxels than",
    "bomb that promises": r"30 GB of voxels .*data\.max_scan_gb",
    "text": "no NIfTI",
    "gzip of rubbish": "no NIfTI",
    "rubbish": "no NIfTI|damaged gzip",
    "empty": "no regular file",
    "gzip of nothing": "breaks off",
    "folder": "no regular file",
    "link to nothing": "no regular file",
    "link to itself": "no regular file",
    "link to a device": "no regular file",
    "pipe": "no regular file",
}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(FOUND_BY_VALUE)))
@pytest.mark.parametrize("dtype", ["<i2", "<f4"])
def test_damage_is_reported_with_its_mend_and_within_bounds(tmp_path: Path, kind: str, dtype: str) -> None:
    good = cine(tmp_path / "good.nii.gz", dtype, shape=(11, 10, 9, 4))
    for seed in range(3 if "bomb" in kind else 40 if "flipped" in kind else 8):
        target = tmp_path / f"damaged{seed}.nii.gz"
        KINDS[kind](target, good, np.random.default_rng(seed))
        tracemalloc.start()
        with pytest.raises(DataError, match=EXPECTED.get(kind)) as caught:
            load(target)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert caught.value.problems
        assert all("; " in line and target.name not in line for line in caught.value.problems)
        assert peak < 8e6


def test_memory_is_that_of_the_voxels_and_a_few_pieces(tmp_path: Path) -> None:
    path = cine(tmp_path / "scan.nii.gz", shape=(100, 100, 10, 50))
    tracemalloc.start()
    image = load(path)
    raw, read = image.raw.nbytes, tracemalloc.get_traced_memory()[1]
    image.frame(7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read < raw + 5e6
    assert peak < raw + 5e6
    with pytest.raises(DataError, match=r"data\.max_scan_gb"):
        load(path, limit=raw - 1)
    assert load(path, limit=raw).count == 50


def test_whatever_a_header_holds_the_answer_is_an_image_or_a_data_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good = cine(tmp_path / "good.nii").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "scan.nii"
    for _ in range(1500):
        data = bytearray(good)
        for at in rng.integers(36, 344, rng.integers(1, 12)):
            data[at] = rng.integers(256)
        if rng.random() < 0.3:
            struct.pack_into("<8f", data, 76, *rng.choice([0, -1, 1e38, np.nan, np.inf, 2], 8))
        path.write_bytes(data)
        try:
            image = load(path)
        except DataError:
            continue
        assert np.isfinite(image.affine).all()
        assert min(image.spacing) > 0
    captured = capfd.readouterr()
    assert captured.out + captured.err == "", "nibabel's remarks on headers"


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_where_nibabels_check_of_a_header_is_left_out_it_would_find_nothing(kind: Any) -> None:
    sound = kind(np.zeros((3, 4, 5), np.int16), oblique()).header
    sound["magic"], sound["vox_offset"] = sound.single_magic, sound.single_vox_offset
    assert is_sound(sound)
    values: dict[str, list[Any]] = {
        "qform_code": [-1, 0, 4, 5, 6, 1000],
        "sform_code": [-1, 0, 4, 5, 6, 1000],
        "vox_offset": [0, 16, 352, 353, 544, 552, 560],
    }
    if kind is nib.Nifti2Image:
        values["eol_check"] = [(0, 0, 0, 0), (13, 10, 26, 10), (10, 10, 26, 10)]
    changes = [(key, value) for key, some in values.items() for value in some]
    changes += [(f"pixdim {place}", value) for place in range(4) for value in (-1, 0, 0.5, 1, np.nan)]
    found = []
    for key, value in changes:
        header = sound.copy()
        name, _, place = key.partition(" ")
        header[name][int(place) if place else ...] = value
        found.append(bool(kind.header_class.diagnose_binaryblock(header.binaryblock)))
        assert not (found[-1] and is_sound(header)), (key, value)
    assert any(found)
    assert not all(found)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .*; see that it is there"):
        read_image(Storage(str(tmp_path)), "gone.nii.gz", 1000, 10**9)


@pytest.mark.real_data
def test_real_files_read_as_in_nibabel(real_data: Path) -> None:
    for folder, every in (("acdc", 7), ("acdc_native_edes", 2), ("brain_growth_bids", 5), ("ms_two_visits_bids", 3)):
        paths = sorted((real_data / folder).rglob("*.nii.gz"))[::every]
        assert paths
        for path in paths:
            agrees(load(path), path)
    pig = real_data / "pig_cine_cc0" / "pig_E774_sax_4d.nii.gz"
    agrees(load(pig), pig)
    assert load(pig).time_step == pytest.approx(0.032, rel=0.1)
