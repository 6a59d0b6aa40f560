from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from sadm_ray.config import DataSettings, PhantomSettings, Settings
from sadm_ray.data.find import find_subjects
from sadm_ray.data.find.label_files import find_labels
from sadm_ray.data.phantom import write_phantom
from sadm_ray.data.phantom.brain import (
    LABELS,
    Ageing,
    BrainAnatomy,
    Pose,
    draw_ageing,
    draw_brain,
    label_brain,
    render_brain,
)
from sadm_ray.errors import ConfigError
from sadm_ray.steps import inspect
from tests.data.studies import load_frames

SHAPE = (24, 40, 32)
FLUID = 0.3  # of T1w, half-way from fluid to grey matter


@pytest.fixture
def anatomy() -> BrainAnatomy:
    return draw_brain(np.random.default_rng(1))


AGEING = Ageing((60.0, 62.0, 70.0), 0.8, ())


def middle(volume: np.ndarray) -> np.ndarray:
    """The part where the ventricles are, and no sulci."""
    d, h, w = volume.shape
    return volume[d // 3 : 2 * d // 3, h // 3 : 2 * h // 3, w // 3 : 2 * w // 3]


def test_ventricles_widen_with_age_at_the_pace_of_the_subject(anatomy: BrainAnatomy) -> None:
    slow, fast = (dataclasses.replace(AGEING, pace=pace) for pace in (0.2, 1.2))
    volumes = {
        (ageing.pace, visit): render_brain(anatomy, ageing, visit, SHAPE, "T1w")
        for ageing in (slow, fast)
        for visit in range(3)
    }
    np.testing.assert_array_equal(volumes[0.2, 0], volumes[1.2, 0], "the first visit does not tell the pace")
    wet = {key: int((middle(volume) < FLUID).sum()) for key, volume in volumes.items()}
    assert wet[0.2, 0] < wet[0.2, 1] <= wet[0.2, 2] < wet[1.2, 2]
    assert wet[1.2, 1] - wet[1.2, 0] > 2 * (wet[0.2, 1] - wet[0.2, 0]), "the second does"


def test_label_maps_of_the_ventricles_lie_on_the_fluid_wherever_the_head_lies(anatomy: BrainAnatomy) -> None:
    for pose in (Pose(), Pose((4.0, -3.0, 5.0), (3.0, 6.0, -4.0))):
        sizes = []
        for visit in range(3):
            labels = label_brain(anatomy, AGEING, visit, SHAPE, pose)
            image = render_brain(anatomy, AGEING, visit, SHAPE, "T1w", pose)
            assert image[labels == 1].max() < 0.5, "half-way from fluid to white matter"
            sizes.append(int(labels.sum()))
        assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_lesions_come_and_stay_bright_on_flair(anatomy: BrainAnatomy) -> None:
    ageing = dataclasses.replace(AGEING, pace=0.0, lesions=(((0.1, 0.1, 0.5), 0.12, 65.0),))
    before, after = (render_brain(anatomy, ageing, visit, SHAPE, "FLAIR") for visit in (1, 2))
    assert (after - before).max() > 0.3
    np.testing.assert_array_equal(render_brain(anatomy, ageing, 0, SHAPE, "FLAIR"), before)
    assert (
        render_brain(anatomy, ageing, 2, SHAPE, "T1w") - render_brain(anatomy, ageing, 1, SHAPE, "T1w")
    ).min() < -0.2


def test_a_pose_moves_the_whole_head(anatomy: BrainAnatomy) -> None:
    straight = render_brain(anatomy, AGEING, 0, SHAPE, "T1w")
    moved = render_brain(anatomy, AGEING, 0, SHAPE, "T1w", Pose(moved=(0.0, 10.0, 0.0)))  # two voxels along h
    np.testing.assert_allclose(moved[:, 2:], straight[:, :-2], atol=1e-4)


def test_ages_are_irregular_and_paces_independent_of_the_first_visit() -> None:
    drawn = [
        (draw_brain(np.random.default_rng(2 * n)), draw_ageing(np.random.default_rng(2 * n + 1))) for n in range(300)
    ]
    for _, ageing in drawn:
        gaps = np.diff(ageing.ages)
        assert 3 <= len(gaps) <= 5
        assert gaps.min() >= 0.79
    paces = [ageing.pace for _, ageing in drawn]
    for visible in ("atrophy", "apart", "sulci"):
        assert abs(np.corrcoef([getattr(anatomy, visible) for anatomy, _ in drawn], paces)[0, 1]) < 0.2


def test_it_is_a_bids_study_with_two_contrasts(tmp_path: Path) -> None:
    settings = PhantomSettings(kind="brain", subjects=3, shape=(8, 12, 10))
    write_phantom(tmp_path, settings, 7)
    made = {path.relative_to(tmp_path): path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for suffix in ("T1w", "FLAIR"):
        catalog = find_subjects(str(tmp_path), DataSettings(layout="bids", suffix=suffix, frames=None))
        assert catalog.problems == ()
        assert [subject.name for subject in catalog.subjects] == ["001", "002", "003"]
        assert catalog.time_unit == "years"
        for subject in catalog.subjects:
            assert subject.group in ("SLOW", "USUAL", "FAST")
            assert subject.covariates["sex"] in ("F", "M")
            assert load_frames(subject, tmp_path).shape == (len(subject.scans), 8, 12, 10)
            labels = find_labels(str(tmp_path), "bids", LABELS, [suffix])
            assert labels.problems == ()
            for scan in subject.scans:
                found = labels.of(scan.file, None)
                assert found is not None
                assert found.names == {1: "ventricles"}
    write_phantom(tmp_path, settings, 7)
    assert {path.relative_to(tmp_path): path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == made
    other = tmp_path / "larger"
    write_phantom(other, settings.model_copy(update={"subjects": 4}), 7)
    name = "sub-002/ses-03/anat/sub-002_ses-03_FLAIR.nii.gz"
    assert (other / name).read_bytes() == (tmp_path / name).read_bytes(), "a larger phantom contains the smaller one"


def test_visits_differ_in_gain_unless_that_is_off(tmp_path: Path) -> None:
    still = PhantomSettings(kind="brain", subjects=1, shape=(8, 12, 10), gain=0, bias=0, misplacement=0, noise=0)
    levels = []
    for name, settings in (("off", still), ("on", still.model_copy(update={"gain": 0.8}))):
        write_phantom(tmp_path / name, settings, 3)
        (subject,) = find_subjects(str(tmp_path / name), DataSettings(layout="bids", frames=None)).subjects
        peaks = load_frames(subject, tmp_path / name).max(axis=(1, 2, 3))
        levels.append(peaks.max() / peaks.min())
    assert levels[0] < 1.05
    assert levels[1] > 1.3


def test_a_phantom_of_another_layout_is_refused(tmp_path: Path) -> None:
    settings = Settings.model_validate({"run": {"dir": str(tmp_path)}, "data": {"layout": "bids", "frames": None}})
    with pytest.raises(ConfigError, match=r"name your study in data\.root"):
        inspect(settings)
