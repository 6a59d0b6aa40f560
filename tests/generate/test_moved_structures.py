"""A ball's label map that moves with known fields, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from sadm_ray.config import SamplingSettings
from sadm_ray.data.find.label_files import LabelFile, LabelFiles
from sadm_ray.data.label_maps import LabelMaps
from sadm_ray.data.shards.subject_row import parse_row
from sadm_ray.diffusion.reference_frames import ReferenceFrames
from sadm_ray.evaluate.structure_scores import dice
from sadm_ray.generate.moved_structures import (
    MovedStructures,
    ObservedStructures,
    StructureFollower,
    observed_structures,
)
from sadm_ray.model.displacement_field import warp
from sadm_ray.model.moved_labels import LabelledSequence
from sadm_ray.model.sequence_rollout import MovedFrames
from tests.data.studies import AFFINE, made_row
from tests.model.test_registry import frames, shaken

SHAPE = (6, 24, 24)
OWN = (6, 36, 36)
NAMES = {5: "cavity", 2: "wall", 9: "nowhere"}
ROW: dict[str, Any] = {}


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
    ROW.update(parse_row(made_row("a", np.zeros((2, *SHAPE)), [True, True], **columns)))
    return LabelMaps.of(ROW, files)


def observed(maps: LabelMaps, *slots: int) -> ObservedStructures | None:
    row = {**ROW, "sources": json.dumps(maps.sources)}
    return observed_structures(row, slots, maps.files)


def test_the_structures_of_observed_visits(maps: LabelMaps) -> None:
    found = observed(maps, 0)
    assert found is not None
    assert found.values == {"cavity": 5, "wall": 2}, "those that there are"
    counted = [(drawn() == value).sum() for value in (5, 2)]
    np.testing.assert_allclose(found.shares[0].sum(axis=(1, 2, 3)) * found.own_voxels, counted, rtol=0.02)
    assert observed(maps, 1) is None, "without a label map there are none"


def test_frames_and_label_maps_move_alike() -> None:
    """A field that each sample has makes the label map what it makes the frame."""
    model, scans = shaken("sadm"), frames()
    encoded = model.observe(scans, torch.tensor([[True, False, False, False]]), torch.linspace(0, 1, 4)[None])
    known = ObservedStructures({"all": 1}, {0: scans[0, 0].numpy()}, own_voxels=1.0, voxel_ml=None)
    follower = StructureFollower(model, encoded, [known], targets=1, samples=3)
    told: list[MovedFrames] = []

    def follow(moved: MovedFrames) -> None:
        told.append(moved)
        follower(moved)

    model.roll_out(encoded, torch.tensor([[0.7]]), [3, 4, 5], SamplingSettings(), follow)
    (moved,) = follower.moved
    assert moved is not None
    assert moved.shape == (1, 3, *scans.shape[2:])
    for sample, field in enumerate(told[0].fields[:, 0]):
        np.testing.assert_allclose(moved[0, sample, 0], warp(scans[:, 0], field[None])[0, 0], atol=2e-3)
    assert not np.allclose(moved[0, 0], moved[0, 1], atol=1e-2), "each sample moves by itself"


def test_a_frame_without_a_label_map_has_that_of_the_nearest_by_registration() -> None:
    """A ball that has moved by two voxels; its label map follows it to the second frame, then on."""
    grid = np.meshgrid(*(np.arange(size) - (size - 1) / 2 for size in (8, 32, 32)), indexing="ij")

    def ball(to: float) -> torch.Tensor:
        away = np.sqrt((2 * grid[0]) ** 2 + grid[1] ** 2 + (grid[2] - to) ** 2)
        return torch.from_numpy(1 / (1 + np.exp(away - 6)))[None].float()

    sequence = LabelledSequence(torch.stack([ball(0), ball(2)]), torch.tensor([0.0, 1.0]), {0: ball(0).round()})
    assert dice(sequence.at(1)[0].numpy() > 0.5, ball(2)[0].numpy() > 0.5) > 0.95
    references = ReferenceFrames(
        torch.stack([ball(2)] * 2)[None],
        torch.tensor([[-1.0, -1.0]]),
        torch.tensor([[1.0, 0.0]]),
        places=torch.tensor([[1, 1]]),
    )
    on = torch.zeros(2, 3, 8, 32, 32)
    on[:, 2] = -2.0
    moved = sequence.moved(references, 0, on)
    assert dice(moved[0].numpy() > 0.5, ball(4)[0].numpy() > 0.5) > 0.93


def test_the_label_map_and_the_volumes_of_estimate_and_samples(maps: LabelMaps) -> None:
    known = observed(maps, 0)
    assert known is not None
    still = known.shares[0]
    shifted = np.roll(still, 4, axis=2)
    samples = np.array([still, still, shifted])
    found = MovedStructures(known, still, samples.astype(np.float16))
    assert dice(found.labels == 5, still[0] > 0.5) > 0.97
    np.testing.assert_allclose(found.voxels, [still.sum(axis=(1, 2, 3))] * 4, rtol=1e-2)
