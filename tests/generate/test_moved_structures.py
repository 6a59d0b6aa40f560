"""A ball's label map that moves with known fields, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from sadm_ray.data.find.label_files import LabelFile, LabelFiles
from sadm_ray.data.label_maps import LabelMaps
from sadm_ray.data.shards.subject_row import parse_row
from sadm_ray.evaluate.structure_scores import dice
from sadm_ray.generate.moved_structures import MovedStructures, move_structures
from tests.data.studies import AFFINE, made_row

SHAPE = (6, 24, 24)
OWN = (6, 36, 36)
NAMES = {5: "cavity", 2: "wall", 9: "nowhere"}


def drawn() -> np.ndarray:
    """A ball in a shell on the subject's own grid, d h w."""
    d, h, w = np.meshgrid(*(np.arange(size) - (size - 1) / 2 for size in OWN), indexing="ij")
    away = np.sqrt((4 * d) ** 2 + h**2 + w**2)
    return np.where(away < 8, 5, np.where(away < 12, 2, 0)).astype(np.int16)


@pytest.fixture
def maps(tmp_path: Path) -> LabelMaps:
    nib.save(nib.Nifti1Image(drawn().T, AFFINE), tmp_path / "a_dseg.nii.gz")
    size = (tmp_path / "a_dseg.nii.gz").stat().st_size
    files = LabelFiles(str(tmp_path), "bids", {"sub-a": [LabelFile("a_dseg.nii.gz", size, NAMES)]})
    source = '{"file": "sub-a_T1w.nii.gz", "frame": null, "session": "1", "sha256": ""}'
    columns: dict[str, Any] = {"source_shape": OWN, "sources": f"[{source}, null]"}
    return LabelMaps.of(parse_row(made_row("a", np.zeros((2, *SHAPE)), [True, False], **columns)), files)


def moved(maps: LabelMaps, *fields: torch.Tensor) -> MovedStructures:
    found = move_structures(maps, 0, torch.stack(fields))
    assert found is not None
    return found


def test_each_sample_has_its_structures(maps: LabelMaps) -> None:
    still, shifted = torch.zeros(3, *SHAPE), torch.zeros(3, *SHAPE)
    shifted[2] = 3
    found = moved(maps, still, shifted)
    assert found.structures == {"cavity": 5, "wall": 2}, "those that there are"
    counted = np.array([(drawn() == value).sum() for value in (5, 2)])
    np.testing.assert_allclose(found.voxels * found.own_voxels, [counted, counted], rtol=0.02)
    first, second = found.label_map(0), found.label_map(1)
    np.testing.assert_array_equal(second.labels[..., :-3], first.labels[..., 3:])
    assert first.volumes == pytest.approx(dict(zip(("cavity", "wall"), counted.tolist(), strict=True)), rel=0.02)
    seen = maps.at(0)
    assert seen is not None
    both = (first.mask("cavity") & seen.mask("cavity")).sum()
    assert 2 * both / (first.mask("cavity").sum() + seen.mask("cavity").sum()) > 0.9


def test_the_mean_is_where_most_samples_are(maps: LabelMaps) -> None:
    still, shifted = torch.zeros(3, *SHAPE), torch.zeros(3, *SHAPE)
    shifted[1] = 4
    found = moved(maps, still, still, shifted)
    mean, usual, other = (found.label_map(sample).mask("cavity") for sample in (None, 0, 2))
    assert dice(mean, usual) > 0.85
    assert dice(mean, usual) > dice(mean, other) + 0.2
    assert found.label_map().volumes["cavity"] == pytest.approx(found.voxels[:, 0].mean() * found.own_voxels)


def test_without_a_label_map_there_are_none(maps: LabelMaps) -> None:
    assert move_structures(maps, 1, torch.zeros(1, 3, *SHAPE)) is None
