from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sadm_ray.config import DataSettings, PhantomSettings
from sadm_ray.data.find import find_subjects
from sadm_ray.data.find.label_files import find_labels
from sadm_ray.data.normalise.intensity import intensity_range, normalise
from sadm_ray.data.normalise.resampling import resample
from sadm_ray.data.normalise.time_slots import assign_slots
from sadm_ray.data.phantom import write_phantom
from sadm_ray.data.phantom.heart import Anatomy, Motion, draw_anatomy, draw_motion, label_heart, render_heart
from sadm_ray.errors import DataError
from tests.data.studies import load_frames

SHAPE = (6, 48, 48)
TINY = PhantomSettings(subjects=2, shape=(4, 16, 16))


@pytest.fixture
def anatomy() -> Anatomy:
    return draw_anatomy(np.random.default_rng(3))


@pytest.fixture
def motion() -> Motion:
    return dataclasses.replace(draw_motion(np.random.default_rng(4)), ed=2, es=10)


def test_the_first_frame_does_not_show_how_strongly_the_heart_contracts(anatomy: Anatomy, motion: Motion) -> None:
    weak, strong = (
        render_heart(anatomy, dataclasses.replace(motion, contraction=contraction), SHAPE) for contraction in (0.2, 0.6)
    )
    np.testing.assert_array_equal(weak[motion.ed], strong[motion.ed])
    assert np.abs(weak[motion.es] - strong[motion.es]).max() > 0.3
    # Two frames do show it: the early change is larger in the stronger heart.
    change = [np.square(frames[motion.ed + 3] - frames[motion.ed]).mean() for frames in (weak, strong)]
    assert change[1] > 2 * change[0]


def test_anatomy_and_motion_are_independent() -> None:
    rng = np.random.default_rng(0)
    draws = [(draw_anatomy(rng), draw_motion(rng)) for _ in range(300)]
    contraction = [motion.contraction for _, motion in draws]
    for name in ("cavity", "wall", "stretch", "taper", "blood", "muscle"):
        visible = [getattr(anatomy, name) for anatomy, _ in draws]
        assert abs(np.corrcoef(visible, contraction)[0, 1]) < 0.2
    assert min(contraction) < 0.18
    assert max(contraction) > 0.57


def test_the_cavity_shrinks_and_the_muscle_keeps_its_area(motion: Motion) -> None:
    plain = dataclasses.replace(
        draw_anatomy(np.random.default_rng(3)), blood=1.0, muscle=0.0, bias=(0.0, 0.0), centre=(0.0, 0.0), stretch=1.0
    )
    frames = render_heart(plain, dataclasses.replace(motion, contraction=0.5), (1, 96, 96))[:, 0]
    y, x = np.mgrid[:96, :96] + 0.5 - 48
    radius = np.hypot(y, x) / 48
    left = radius < plain.cavity + 0.02  # stays clear of the right ventricle's blood

    def cavity_area(frame: int) -> float:
        return float(frames[frame][left].sum() * (2 / 96) ** 2)

    expected = np.pi * plain.cavity**2
    assert cavity_area(motion.ed) == pytest.approx(expected, rel=0.05)
    assert cavity_area(motion.es) == pytest.approx(expected * 0.25, rel=0.1)


def test_label_maps_are_those_of_the_geometry(motion: Motion) -> None:
    plain = dataclasses.replace(draw_anatomy(np.random.default_rng(3)), centre=(0.0, 0.0), stretch=1.0)
    labels = label_heart(
        plain, dataclasses.replace(motion, contraction=0.5), (1, 96, 96), [motion.ed, motion.ed, motion.es]
    )
    np.testing.assert_array_equal(labels[0], labels[1])
    pixel, ed, es = (2 / 96) ** 2, labels[0], labels[2]
    assert np.unique(labels).tolist() == [0, 1, 2, 3]
    assert (ed == 3).sum() * pixel == pytest.approx(np.pi * plain.cavity**2, rel=0.03)
    assert (es == 3).sum() / (ed == 3).sum() == pytest.approx(0.25, rel=0.05), "the ejection fraction is 75 %"
    assert (es == 2).sum() / (ed == 2).sum() == pytest.approx(1, rel=0.05), "the muscle keeps its area"
    assert (ed == 1).any()


def test_sequences_are_long_enough() -> None:
    rng = np.random.default_rng(1)
    motions = [draw_motion(rng) for _ in range(200)]
    assert all(motion.es - motion.ed + 1 >= 8 and motion.es < motion.frames for motion in motions)
    assert {motion.ed for motion in motions} == {0, 1, 2}


def test_the_phantom_is_a_readable_study(phantom_study: Path) -> None:
    catalog = find_subjects(str(phantom_study), DataSettings())
    assert len(catalog.subjects) == 12
    assert catalog.problems == ()
    images = [nib.load(phantom_study / subject.scans[0].file) for subject in catalog.subjects]
    image = images[0]
    assert image.get_data_dtype() == np.int16
    assert image.shape[:3] == (24, 24, 4)
    rotation = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    assert (np.abs(rotation) > 0.05).sum() >= 8, "the planes are oblique"
    assert len({image.affine.tobytes() for image in images}) == 12
    np.testing.assert_allclose(image.header.get_qform(), image.affine, atol=1e-3)
    labels = find_labels(str(phantom_study), "acdc")
    for subject, cine in zip(catalog.subjects, images, strict=True):
        assert subject.cycle is not None
        found = [labels.of(subject.scans[0].file, frame - 1) for frame in subject.cycle]
        assert all(found)
        assert labels.of(subject.scans[0].file, subject.cycle[0]) is None, "no others have one"
        for file in filter(None, found):
            label_map = nib.load(phantom_study / file.file)
            np.testing.assert_array_equal(label_map.affine, cine.affine)
            assert label_map.shape == cine.shape[:3]


def test_copying_is_a_baseline_worth_beating(tmp_path: Path) -> None:
    write_phantom(tmp_path / "study", PhantomSettings(subjects=10), seed=0)
    early, late = [], []
    for subject in find_subjects(str(tmp_path / "study"), DataSettings()).subjects:
        frames = load_frames(subject, tmp_path / "study")
        taken = frames[assign_slots(np.arange(len(frames), dtype=float), 8)]
        slots = np.stack([resample(frame, (8, 32, 32)) for frame in taken])
        slots = normalise(slots, intensity_range(slots, "minmax"))
        early.append(-10 * np.log10(np.square(slots[0] - slots[-1]).mean()))
        late.append(-10 * np.log10(np.square(slots[4] - slots[-1]).mean()))
    assert 17 < np.mean(early) < 22
    assert 24 < np.mean(late) < 29


def test_a_patient_depends_on_the_seed_and_its_number_only(tmp_path: Path) -> None:
    write_phantom(tmp_path / "few", TINY, seed=5)
    write_phantom(tmp_path / "more", TINY.model_copy(update={"subjects": 3}), seed=5)
    write_phantom(tmp_path / "other", TINY, seed=6)
    file = "patient002/patient002_4d.nii.gz"
    assert (tmp_path / "few" / file).read_bytes() == (tmp_path / "more" / file).read_bytes()
    assert (tmp_path / "few" / file).read_bytes() != (tmp_path / "other" / file).read_bytes()


def test_a_treatment_changes_the_contraction_of_every_second_heart_and_nothing_else(tmp_path: Path) -> None:
    write_phantom(tmp_path / "plain", TINY, seed=5)
    write_phantom(tmp_path / "treated", TINY.model_copy(update={"treatment": 0.5}), seed=5)
    (b, a), (treated_b, still_a) = (
        [
            np.asanyarray(nib.load(tmp_path / name / patient / f"{patient}_4d.nii.gz").dataobj)
            for patient in ("patient001", "patient002")
        ]
        for name in ("plain", "treated")
    )
    np.testing.assert_array_equal(a, still_a)
    plain, some = (find_subjects(str(tmp_path / name), DataSettings()).subjects for name in ("plain", "treated"))
    assert ["treatment" in subject.covariates for subject in plain] == [False, False]
    assert [subject.covariates["treatment"] for subject in some] == ["B", "A"]
    assert [each.group for each in plain] == [each.group for each in some]
    ed, es = (frame - 1 for frame in some[0].cycle or ())
    np.testing.assert_array_equal(b[..., ed], treated_b[..., ed])
    changes = [np.abs(each[..., es].astype(float) - each[..., ed]).mean() for each in (b, treated_b)]
    assert changes[1] < 0.8 * changes[0]


def test_the_facts_of_a_phantom_are_what_they_were_where_it_has_no_treatment() -> None:
    assert PhantomSettings().facts() == {"subjects": 112, "shape": [8, 48, 48], "noise": 0.01}
    assert PhantomSettings(treatment=0.5).facts()["treatment"] == 0.5
    assert "treatment" not in PhantomSettings(kind="brain", treatment=0.5).facts()


def test_written_once_and_again_when_the_settings_change(tmp_path: Path) -> None:
    write_phantom(tmp_path, TINY, seed=0)
    file = tmp_path / "patient001" / "patient001_4d.nii.gz"
    before = file.stat().st_mtime_ns
    write_phantom(tmp_path, TINY, seed=0)
    assert file.stat().st_mtime_ns == before
    write_phantom(tmp_path, TINY.model_copy(update={"subjects": 1}), seed=0)
    assert [subject.name for subject in find_subjects(str(tmp_path), DataSettings()).subjects] == ["patient001"]


def test_a_phantom_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    write_phantom(tmp_path, TINY, seed=0)
    marker = tmp_path / "phantom.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "complete": False}))
    (tmp_path / "patient002" / "Info.cfg").unlink()
    write_phantom(tmp_path, TINY, seed=0)
    assert len(find_subjects(str(tmp_path), DataSettings()).subjects) == 2


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="not empty"):
        write_phantom(tmp_path, TINY, seed=0)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
