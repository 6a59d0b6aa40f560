import io
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from sadm_ray.data.shards.subject_row import parse_row
from sadm_ray.errors import DataError
from sadm_ray.generate.bids_names import SubjectNames, bare_label
from sadm_ray.generate.moved_structures import MovedStructures, ObservedStructures
from sadm_ray.generate.volume_writer import Predicted, SubjectWriter
from sadm_ray.model.prediction_bounds import BoundWidths
from sadm_ray.storage import Storage
from tests.data.studies import AFFINE, made_row

SHAPE = (4, 8, 8)
ALL = ("estimate", "samples", "mean", "std", "lower", "upper")


def row(name: str = "a") -> dict[str, Any]:
    return parse_row(made_row(name, np.random.default_rng(0).random((5, *SHAPE)), source_shape=(5, 12, 10)))


def writer_of(folder: Path, subject: dict[str, Any], task: str = "future") -> SubjectWriter:
    return SubjectWriter(Storage(str(folder)), SubjectNames(subject, subject["subject"], bare_label(task)), subject)


def samples(*values: float) -> np.ndarray:
    return np.stack([np.full(SHAPE, value, dtype=np.float32) for value in values])


def predicted(*values: float, estimate: float = 0.25) -> Predicted:
    """Without bounds, as of a model that is not calibrated."""
    return Predicted(samples(estimate)[0], samples(*values) if values else np.zeros((0, *SHAPE), np.float32))


def test_estimates_are_written_in_the_subjects_grid_and_range(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, row())
    writer.write_frame(3, 0.75, predicted(0.2, 0.4), ALL, {"Task": "future"})
    folder = tmp_path / "sub-a" / "ses-time0p75" / "anat"
    images = {
        file.name.split("desc-future")[1].split("_")[0].lower(): nib.load(file) for file in folder.glob("*.nii.gz")
    }
    assert {name: image.shape for name, image in images.items()} == dict.fromkeys(
        ("estimate", "sample1", "sample2", "mean", "std"), (10, 12, 5)
    )
    for image in images.values():
        np.testing.assert_array_equal(image.affine, AFFINE)
    means = {name: image.get_fdata().mean() for name, image in images.items()}
    expected = {
        "estimate": 10 + 0.25 * 490, "sample1": 10 + 0.2 * 490, "sample2": 10 + 0.4 * 490, "mean": 10 + 0.3 * 490,
        "std": 0.1 * 490,
    }  # fmt: skip
    assert means == pytest.approx(expected, rel=1e-5)
    sidecar = json.loads((folder / "sub-a_ses-time0p75_desc-futureMean_synth.json").read_text())
    assert (sidecar["Estimate"], sidecar["Samples"], sidecar["Task"]) == ("mean", 2, "future")
    assert "not for clinical use" in sidecar["Notice"]
    assert len(list(folder.iterdir())) == 5 * 2
    for file in writer.written:
        assert (tmp_path / file["path"]).stat().st_size == file["bytes"]


@pytest.mark.parametrize(
    ("wanted", "estimates"),
    [(("mean",), ["mean"]), (("samples",), ["sample1", "sample2"]), (("std", "mean"), ["mean", "std"])],
)
def test_only_the_wanted_estimates_are_written(tmp_path: Path, wanted: tuple[str, ...], estimates: list[str]) -> None:
    writer = writer_of(tmp_path, row())
    writer.write_frame(3, 0.75, predicted(0.2, 0.4), wanted, {})
    assert [file["estimate"] for file in writer.written if file["path"].endswith(".json")] == estimates


def test_a_sequence_is_in_the_order_of_time_and_marks_what_is_synthetic(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, row())
    frames = [(2.0, True, samples(0.9)[0]), (0.0, False, samples(0.1)[0]), (1.0, True, samples(0.5)[0])]
    writer.write_sequence(frames, {})
    folder = tmp_path / "sub-a" / "anat"
    image = nib.load(folder / "sub-a_desc-futureSequence_synth.nii.gz")
    assert image.shape == (10, 12, 5, 3)
    np.testing.assert_array_equal(image.affine, AFFINE)
    np.testing.assert_allclose(
        image.get_fdata().mean(axis=(0, 1, 2)), [10 + v * 490 for v in (0.1, 0.5, 0.9)], rtol=1e-5
    )
    sidecar = json.loads((folder / "sub-a_desc-futureSequence_synth.json").read_text())
    assert (sidecar["Times"], sidecar["Generated"]) == ([0.0, 1.0, 2.0], [False, True, True])
    film = Image.open(io.BytesIO((folder / "sub-a_desc-futureSequence_synth.gif").read_bytes()))
    assert film.n_frames == 3
    bars = []
    for number in range(3):
        film.seek(number)
        bars.append(np.asarray(film.convert("L"))[0].mean() > 128)
    assert bars == [False, True, True]


def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rename it"):
        writer_of(tmp_path / "out", row("../../etc"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_not_written(tmp_path: Path, bad: float) -> None:
    writer = writer_of(tmp_path, row())
    volumes = samples(0.2)
    volumes[0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="voxels are not finite"):
        writer.write_frame(3, 0.75, Predicted(volumes[0], volumes), ALL, {})
    assert list(tmp_path.iterdir()) == writer.written == []


def test_a_frame_of_a_registered_visit_lies_where_that_visit_lies(tmp_path: Path) -> None:
    moved = np.eye(4)
    moved[:3, 3] = 3.0, -2.0, 1.0
    sources = [{"file": "a"}, {"file": "b", "moved": moved.ravel().tolist()}, None, None]
    subject = {**row(), "sources": json.dumps([*sources, None])}
    for slot, expected in ((0, AFFINE), (1, moved @ AFFINE), (2, AFFINE), (None, AFFINE)):
        writer = writer_of(tmp_path, subject, f"to-{slot}")
        writer.write_frame(slot, 0.5, predicted(), ALL, {})
        image = nib.load(tmp_path / writer.written[0]["path"])
        np.testing.assert_allclose(image.affine, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("times", "unit", "step", "stated"),
    [
        ((0.0, 0.04, 0.08, 0.12), "s", 0.04, "sec"),
        ((0.0, 0.25, 0.5, 0.75), "cardiac phase (ED 0, ES 1)", 0.25, "unknown"),
        ((70.1, 71.3, 75.0, 75.5), "years", 0.0, "unknown"),
    ],
)
def test_the_time_step_of_a_sequence_is_that_of_its_frames(
    tmp_path: Path, times: tuple[float, ...], unit: str, step: float, stated: str
) -> None:
    writer = writer_of(tmp_path, row())
    volume = samples(0.3)[0]
    writer.write_sequence([(time, time > 0, volume) for time in times], {"TimeUnit": unit})
    image = nib.load(next((tmp_path / "sub-a" / "anat").glob("*.nii.gz")))
    assert image.header.get_zooms()[3] == pytest.approx(step, abs=1e-6)
    assert image.header.get_xyzt_units() == ("mm", stated)
    sidecar = json.loads(next((tmp_path / "sub-a" / "anat").glob("*.json")).read_text())
    assert sidecar["Times"] == list(times)


def test_a_cine_has_all_its_frames_in_one_file_for_each_estimate(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, row())
    drawn = np.stack([samples(0.4, 0.6), samples(0.6, 0.8)])  # s m d h w
    both = Predicted(samples(0.5, 0.7), drawn, BoundWidths(0.9, 12, "", {"still": 1.0, "moving": 2.0}))
    writer.write_cine([(0.0, samples(0.2)[0])], [1.0, 0.5], both, ALL, {"Task": "future", "TimeUnit": "s"})
    found = {}
    for file in (tmp_path / "sub-a" / "anat").glob("sub-a_desc-future*_cine.nii.gz"):
        image = nib.load(file)
        assert image.header.get_zooms()[3] == pytest.approx(0.5)
        assert image.header.get_xyzt_units() == ("mm", "sec")
        found[file.name.split("desc-future")[1].split("_")[0]] = image.get_fdata().mean(axis=(0, 1, 2))
        sidecar = json.loads(file.with_name(file.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["Times"] == [0.0, 0.5, 1.0]
        assert sidecar["Generated"] == [False, True, True]
        assert (sidecar["TimeStep"], sidecar["Samples"]) == (0.5, 2)
    half = 2.0 * 0.2 / 2**0.5  # of the standard deviation of two
    expected = {
        "Estimate": (0.2, 0.7, 0.5), "Sample1": (0.2, 0.6, 0.4), "Sample2": (0.2, 0.8, 0.6), "Mean": (0.2, 0.7, 0.5),
        "Lower": (0.2, 0.7 - half, 0.5 - half), "Upper": (0.2, 0.7 + half, 0.5 + half),
    }  # fmt: skip
    assert found.keys() == {*expected, "Std"}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], [10 + value * 490 for value in values], rtol=1e-5)
    np.testing.assert_allclose(found["Std"], [0, 49, 49], atol=1e-3)


STRUCTURES = {"cavity": 3, "wall": 2}


def shares(size: int) -> np.ndarray:
    """A cavity of so many rows of the grid within two rows of wall."""
    found = np.zeros((2, *SHAPE), np.float32)
    found[0, :, :size], found[1, :, size : size + 2] = 1, 1
    return found


def moved(*sizes: int, observed: dict[int, np.ndarray] | None = None) -> MovedStructures:
    """A cavity of another size in each sample."""
    each = np.array([shares(size) for size in sizes])
    known = ObservedStructures(STRUCTURES, observed or {0: shares(3)}, own_voxels=1.0, voxel_ml=None)
    return MovedStructures(known, each.mean(axis=0), each.astype(np.float16))


def test_label_maps_lie_in_the_subjects_grid_with_their_names(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, row())
    writer.write_labels(3, 0.75, moved(2, 4), ALL, {"Task": "future"})
    folder = tmp_path / "sub-a" / "ses-time0p75" / "anat"
    names = {f"sub-a_ses-time0p75_desc-future{estimate}_dseg" for estimate in ("Sample1", "Sample2", "Estimate")}
    assert {file.name.partition(".")[0] for file in folder.iterdir()} == names
    assert len(list(folder.iterdir())) == 3 * 3
    for estimate, size in (("Sample1", 2), ("Sample2", 4)):
        stem = f"sub-a_ses-time0p75_desc-future{estimate}_dseg"
        image = nib.load(folder / f"{stem}.nii.gz")
        np.testing.assert_array_equal(image.affine, AFFINE)
        labels = np.asanyarray(image.dataobj)
        assert (labels.shape, labels.dtype) == ((10, 12, 5), np.dtype(np.int32))
        assert set(np.unique(labels)) == {0, 2, 3}
        assert (labels == 3).mean() == pytest.approx(size / 8, abs=0.05)
        assert (labels == 2).mean() == pytest.approx(2 / 8, abs=0.05)
        assert (folder / f"{stem}.tsv").read_text() == "index\tname\n3\tcavity\n2\twall\n"
        sidecar = json.loads((folder / f"{stem}.json").read_text())
        assert (sidecar["Manual"], sidecar["Time"], sidecar["Samples"]) == (False, 0.75, 2)
        assert sidecar["Description"].endswith("one of the scans that may be, its structures")
    assert {file["estimate"] for file in writer.written} == {"sample1", "sample2", "estimate"}


def test_the_label_map_of_the_estimate_is_where_most_samples_have_the_structure(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, row())
    writer.write_labels(3, 0.75, moved(2, 4, 4), ("estimate",), {})
    (file,) = (tmp_path / "sub-a").rglob("*.nii.gz")
    assert (np.asanyarray(nib.load(file).dataobj) == 3).mean() == pytest.approx(4 / 8, abs=0.05)


def test_label_maps_of_a_cine_have_its_frames(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, row())
    drawn = [moved(*sizes, observed={0: shares(6)}) for sizes in ((2, 3), (2, 4))]
    scanned = [(0, 0.0), (2, 0.5)]
    writer.write_cine_labels(scanned, [0.25, 1.0], drawn, ("samples",), {"TimeUnit": "s"})
    stem = tmp_path / "sub-a" / "anat" / "sub-a_desc-futureSample2_dseg"
    labels = np.asanyarray(nib.load(f"{stem}.nii.gz").dataobj)
    assert labels.shape == (10, 12, 5, 4)
    assert (labels == 3).mean(axis=(0, 1, 2)) == pytest.approx([6 / 8, 3 / 8, 0, 4 / 8], abs=0.05)
    sidecar = json.loads(Path(f"{stem}.json").read_text())
    assert sidecar["Times"] == [0.0, 0.25, 0.5, 1.0]
    assert sidecar["Generated"] == [False, True, False, True]
