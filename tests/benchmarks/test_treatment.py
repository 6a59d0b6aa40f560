"""The truth that the effect of a treatment is compared with."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.treatment import CAVITY, Heart
from sadm_ray.config import PhantomSettings
from sadm_ray.data.phantom import write_phantom
from sadm_ray.data.phantom.heart import render_heart, treated

SHAPE = (4, 64, 64)


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    write_phantom(tmp_path / "hearts", PhantomSettings(subjects=1, shape=SHAPE, treatment=0.5), seed=3)
    return tmp_path / "hearts" / "patient001"


def test_the_heart_is_the_one_that_was_written(subject: Path) -> None:
    heart = Heart.of(subject, 3)
    written = np.asanyarray(nib.load(subject / "patient001_4d.nii.gz").dataobj).T.astype(float)
    drawn = [
        render_heart(heart.anatomy, treated(heart.motion, factor), SHAPE)[heart.motion.es].ravel()
        for factor in (1.0, 0.5)
    ]
    alike = [np.corrcoef(written[heart.motion.es].ravel(), each)[0, 1] for each in drawn]
    assert alike[1] > 0.995, "the first subject is treated"
    assert alike[0] < alike[1] - 0.01


def test_its_volume_is_that_of_the_cavity(subject: Path) -> None:
    heart = Heart.of(subject, 3)
    labels = np.asanyarray(nib.load(min(subject.glob("*_gt.nii.gz"))).dataobj)
    counted = float((labels == CAVITY[1]).sum()) * heart.voxel_ml
    at_ed = heart.cavity_ml(SHAPE, 0.0)
    assert counted == pytest.approx(at_ed, rel=0.02)
    left = 1 - heart.motion.contraction
    assert heart.cavity_ml(SHAPE, 1.0) == pytest.approx(at_ed * left**2)
    assert heart.cavity_ml(SHAPE, 0.5) > heart.cavity_ml(SHAPE, 1.0)
