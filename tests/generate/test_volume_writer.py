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
from sadm_ray.generate.volume_writer import SubjectWriter, describe, frame_label
from sadm_ray.storage import Storage
from tests.data.studies import AFFINE, made_row

SHAPE = (4, 8, 8)
ALL = ("samples", "mean", "std")


def row(name: str = "a") -> dict[str, Any]:
    return parse_row(made_row(name, np.random.default_rng(0).random((5, *SHAPE)), source_shape=(5, 12, 10)))


def samples(*values: float) -> np.ndarray:
    return np.stack([np.full(SHAPE, value, dtype=np.float32) for value in values])


def test_estimates_are_written_in_the_subjects_grid_and_range(tmp_path: Path) -> None:
    writer = SubjectWriter(Storage(str(tmp_path)), "future", row())
    writer.write_frame("frame-03", samples(0.2, 0.4), ALL, {"Task": "future"})
    folder = tmp_path / "future" / "sub-a"
    images = {file.name.split("desc-")[1].split("_")[0]: nib.load(file) for file in folder.glob("*.nii.gz")}
    assert {name: image.shape for name, image in images.items()} == dict.fromkeys(
        ("sample1", "sample2", "mean", "std"), (10, 12, 5)
    )
    for image in images.values():
        np.testing.assert_array_equal(image.affine, AFFINE)
    means = {name: image.get_fdata().mean() for name, image in images.items()}
    expected = {"sample1": 10 + 0.2 * 490, "sample2": 10 + 0.4 * 490, "mean": 10 + 0.3 * 490, "std": 0.1 * 490}
    assert means == pytest.approx(expected, rel=1e-5)
    sidecar = json.loads((folder / "sub-a_frame-03_desc-mean_synth.json").read_text())
    assert (sidecar["Estimate"], sidecar["Samples"], sidecar["Task"]) == ("mean", 2, "future")
    assert "not for clinical use" in sidecar["Notice"]
    assert len(list(folder.iterdir())) == 4 * 2
    for file in writer.written:
        assert (tmp_path / file["path"]).stat().st_size == file["bytes"]


@pytest.mark.parametrize(
    ("wanted", "estimates"),
    [(("mean",), ["mean"]), (("samples",), ["sample1", "sample2"]), (("std", "mean"), ["mean", "std"])],
)
def test_only_the_wanted_estimates_are_written(tmp_path: Path, wanted: tuple[str, ...], estimates: list[str]) -> None:
    writer = SubjectWriter(Storage(str(tmp_path)), "future", row())
    writer.write_frame("frame-03", samples(0.2, 0.4), wanted, {})
    assert [file["estimate"] for file in writer.written if file["path"].endswith(".json")] == estimates


def test_a_sequence_is_in_the_order_of_time_and_marks_what_is_synthetic(tmp_path: Path) -> None:
    writer = SubjectWriter(Storage(str(tmp_path)), "future", row())
    frames = [(2.0, True, samples(0.9)[0]), (0.0, False, samples(0.1)[0]), (1.0, True, samples(0.5)[0])]
    writer.write_sequence(frames, {})
    folder = tmp_path / "future" / "sub-a"
    image = nib.load(folder / "sub-a_desc-sequence_synth.nii.gz")
    assert image.shape == (10, 12, 5, 3)
    np.testing.assert_array_equal(image.affine, AFFINE)
    np.testing.assert_allclose(
        image.get_fdata().mean(axis=(0, 1, 2)), [10 + v * 490 for v in (0.1, 0.5, 0.9)], rtol=1e-5
    )
    sidecar = json.loads((folder / "sub-a_desc-sequence_synth.json").read_text())
    assert (sidecar["Times"], sidecar["Generated"]) == ([0.0, 1.0, 2.0], [False, True, True])
    film = Image.open(io.BytesIO((folder / "sub-a_desc-sequence_synth.gif").read_bytes()))
    assert film.n_frames == 3
    bars = []
    for number in range(3):
        film.seek(number)
        bars.append(np.asarray(film.convert("L"))[0].mean() > 128)
    assert bars == [False, True, True]


@pytest.mark.parametrize(
    ("frame", "time", "label"),
    [
        (3, 0.4, "frame-03"),
        (None, 12.0, "time-12"),
        (None, 12.5, "time-12p5"),
        (None, -0.25, "time-m0p25"),
        (None, 20190131.0, "time-20190131p0"),
        (None, 20190132.0, "time-20190132p0"),
        (None, 365.0000116, "time-365p0000116"),
    ],
)
def test_labels_are_letters_and_digits(frame: int | None, time: float, label: str) -> None:
    assert frame_label(frame, time) == label


def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rename it"):
        SubjectWriter(Storage(str(tmp_path / "out")), "future", row("../../etc"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_not_written(tmp_path: Path, bad: float) -> None:
    writer = SubjectWriter(Storage(str(tmp_path)), "future", row())
    volumes = samples(0.2)
    volumes[0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="voxels are not finite"):
        writer.write_frame("frame-03", volumes, ALL, {})
    assert list(tmp_path.iterdir()) == writer.written == []


def test_a_frame_of_a_registered_visit_lies_where_that_visit_lies(tmp_path: Path) -> None:
    moved = np.eye(4)
    moved[:3, 3] = 3.0, -2.0, 1.0
    sources = [{"file": "a"}, {"file": "b", "moved": moved.ravel().tolist()}, None, None]
    subject = {**row(), "sources": json.dumps([*sources, None])}
    for slot, expected in ((0, AFFINE), (1, moved @ AFFINE), (2, AFFINE), (None, AFFINE)):
        writer = SubjectWriter(Storage(str(tmp_path)), f"to-{slot}", subject)
        writer.write_frame("frame", samples(0.2), ALL, {}, slot)
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
    writer = SubjectWriter(Storage(str(tmp_path)), "future", row())
    volume = samples(0.3)[0]
    writer.write_sequence([(time, time > 0, volume) for time in times], {"TimeUnit": unit})
    image = nib.load(next((tmp_path / "future" / "sub-a").glob("*.nii.gz")))
    assert image.header.get_zooms()[3] == pytest.approx(step, abs=1e-6)
    assert image.header.get_xyzt_units() == ("mm", stated)
    sidecar = json.loads(next((tmp_path / "future" / "sub-a").glob("*.json")).read_text())
    assert sidecar["Times"] == list(times)


def test_the_folder_tells_bids_what_is_not_its(tmp_path: Path) -> None:
    describe(Storage(str(tmp_path)), ["to-last", "missing"])
    assert json.loads((tmp_path / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    ignored = (tmp_path / ".bidsignore").read_text().splitlines()
    assert {"/to-last", "/missing", "/predictions", "/manifest.parquet", "/request.json"} <= set(ignored)
    assert not any(line.endswith("/") for line in ignored), "which the validator does not honour"
