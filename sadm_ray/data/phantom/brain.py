"""An ageing head, written as a BIDS study of T1w and FLAIR visits at irregular ages.

Skull, cerebrospinal fluid, a ribbon of grey matter with sulci, white matter and two lateral ventricles. With age the
ventricles and the sulci widen and the brain shrinks, at a pace that is drawn independently of everything visible at
the first visit: two visits tell it, one does not. Some subjects get lesions of the white matter, which stay.

Each visit has a gain, a bias field and a misplacement of its own, as scans of different days have. It may lack one of
the contrasts. `derivatives/segmentation` has a label map of the ventricles for each visit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8
from scipy import ndimage, special
from scipy.spatial.transform import Rotation

from sadm_ray.config import PhantomSettings
from sadm_ray.data.read.nifti_io import set_geometry, write_image

BRIGHTNESS = {
    # scalp, bone, fluid, grey matter, white matter, lesion
    "T1w": (0.7, 0.08, 0.15, 0.5, 0.8, 0.45),
    "FLAIR": (0.7, 0.06, 0.08, 0.62, 0.45, 0.95),
}
LABELS = "derivatives/segmentation"
"""The folder of the label maps in the study: `data.labels`."""
_FIELD_OF_VIEW = (160.0, 200.0, 170.0)
"""Along d, h, w in mm."""
_BRAIN = (0.62, 0.78, 0.68)
"""Half axes of an average brain along d, h, w, in half fields of view."""
_LACKING = 5
"""The random stream that says which visits lack a contrast."""
_FOLDS = 48
"""The size of the field whose zeros are the sulci, along each axis."""


@dataclass(frozen=True)
class BrainAnatomy:
    """What is visible at the first visit. Lengths are in half fields of view."""

    size: tuple[float, float, float]  # half axes of the brain
    ventricle: tuple[float, float, float]  # half axes of each lateral ventricle, before any atrophy
    apart: float  # how far the ventricles are from the middle
    sulci: float  # width of the sulci before any atrophy
    atrophy: float  # at the first visit: 0 young, 1 far
    folds_seed: int


@dataclass(frozen=True)
class Ageing:
    """What becomes of it: the ages at the visits, the pace, and the lesions that come.

    A lesion is (place in the brain's half axes, radius, age at which it is there).
    """

    ages: tuple[float, ...]
    pace: float  # of atrophy, in ten years
    lesions: tuple[tuple[tuple[float, float, float], float, float], ...]


@dataclass(frozen=True)
class Pose:
    """How the head lies in the scanner: turned (degrees about d, h, w), then moved (mm)."""

    turned: tuple[float, float, float] = (0.0, 0.0, 0.0)
    moved: tuple[float, float, float] = (0.0, 0.0, 0.0)


def draw_brain(rng: np.random.Generator) -> BrainAnatomy:
    """A brain of ordinary variety."""
    size = tuple(float(axis * rng.uniform(0.93, 1.04)) for axis in _BRAIN)
    ventricle = tuple(float(axis * rng.uniform(0.85, 1.15)) for axis in (0.15, 0.34, 0.08))
    return BrainAnatomy(
        size=(size[0], size[1], size[2]),
        ventricle=(ventricle[0], ventricle[1], ventricle[2]),
        apart=rng.uniform(0.15, 0.19),
        sulci=rng.uniform(0.10, 0.16),
        atrophy=rng.uniform(0.0, 0.3),
        folds_seed=int(rng.integers(2**31)),
    )


def draw_ageing(rng: np.random.Generator) -> Ageing:
    """Four to six visits, 0.8 to 3 years apart, from an age of 55 to 80."""
    gaps = rng.uniform(0.8, 3.0, int(rng.integers(3, 6)))
    ages = np.round(rng.uniform(55, 80) + np.concatenate([[0.0], np.cumsum(gaps)]), 2)
    lesions = []
    for _ in range(int(rng.choice([0, 0, 1, 2, 4]))):
        side = rng.choice([-1, 1])
        place = (rng.uniform(-0.3, 0.4), rng.uniform(-0.5, 0.5), side * rng.uniform(0.4, 0.6))
        lesions.append(((place[0], place[1], place[2]), rng.uniform(0.05, 0.1), rng.uniform(ages[0] - 2, ages[-1])))
    return Ageing(tuple(ages.tolist()), rng.uniform(0.1, 1.2), tuple(lesions))


def render_brain(
    anatomy: BrainAnatomy, ageing: Ageing, visit: int, shape: Sequence[int], contrast: str, pose: Pose = Pose()
) -> Float32[np.ndarray, "d h w"]:
    """Draw one visit without noise, gain or bias field; brightness is about 0 to 1. Air is 0.

    The first visit does not depend on the pace.

    Args:
        shape: (d, h, w) to the head, to the front, to the right.
        contrast: `T1w` or `FLAIR`.
    """
    scalp, bone, fluid, grey, white, lesion = BRIGHTNESS[contrast]
    at = _posed(shape, pose)
    age = ageing.ages[visit]
    atrophy = _atrophy_at(anatomy, ageing, visit)
    edge = 0.6 / max(shape)
    scaled = [axis / half for axis, half in zip(at, anatomy.size, strict=True)]
    radius = np.sqrt(sum(axis**2 for axis in scaled))
    brain = radius * (1 + 0.05 * atrophy)  # it shrinks within the skull
    folds = np.abs(_folds(anatomy.folds_seed, scaled))
    sulcus = _inside((anatomy.sulci + 0.22 * atrophy - folds) * 0.3, edge) * _inside(brain - 0.74, edge)
    banks = np.where(brain > 0.7, (anatomy.sulci + 0.4 - folds) * 0.3, -1.0)  # grey matter lines the sulci
    ribbon = _inside(np.maximum(brain - 0.88, banks), edge)
    ventricle = _ventricles(anatomy, atrophy, at, edge)
    tissue = grey * ribbon + white * (1 - ribbon)
    for place, size, since in ageing.lesions:
        if age >= since:
            apart = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(scaled, place, strict=True)))
            spot = _inside(size - apart, edge)
            tissue = tissue * (1 - spot) + lesion * spot
    wet = np.maximum(sulcus, ventricle)
    head = tissue * (1 - wet) + fluid * wet
    for border, outside in ((1.0 - brain, fluid), (1.06 - radius, bone), (1.16 - radius, scalp), (1.27 - radius, 0.0)):
        inside = _inside(border * min(anatomy.size), edge)
        head = head * inside + outside * (1 - inside)
    return head.astype(np.float32)


def label_brain(
    anatomy: BrainAnatomy, ageing: Ageing, visit: int, shape: Sequence[int], pose: Pose = Pose()
) -> UInt8[np.ndarray, "d h w"]:
    """The label map of one visit: 1 where the ventricles fill half of a voxel or more."""
    inside = _ventricles(anatomy, _atrophy_at(anatomy, ageing, visit), _posed(shape, pose), 0.6 / max(shape))
    return (inside >= 0.5).astype(np.uint8)


def write_brain(folder: Path, settings: PhantomSettings, seed: Sequence[int]) -> None:
    """Write one subject's visits and `sessions.tsv` into `folder`, which is called `sub-NNN`, and the label maps."""
    anatomy, ageing, day_rng, noise_rng = _drawn(seed)
    spacing = [size / count for size, count in zip(_FIELD_OF_VIEW, settings.shape, strict=True)][::-1]
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-(count - 1) * size / 2 for count, size in zip(settings.shape[::-1], spacing, strict=True)]
    affine = affine.astype(np.float32).astype(np.float64)
    lacking_rng = np.random.default_rng([*seed, _LACKING])
    rows = ["session_id\tage"]
    for visit, age in enumerate(ageing.ages):
        session = f"ses-{visit + 1:02d}"
        rows.append(f"{session}\t{age:.2f}")
        turned, moved = day_rng.normal(0, settings.misplacement, (2, 3)).clip(-10, 10).tolist()
        pose = Pose(tuple(turned), tuple(moved))
        labels = label_brain(anatomy, ageing, visit, settings.shape, pose)
        label_map = folder.parent / LABELS / folder.name / session / "anat" / f"{folder.name}_{session}_dseg.nii.gz"
        _write(label_map, labels, affine)
        lacks = lacking_rng.random() < settings.lacking
        lacked = settings.contrasts[int(lacking_rng.integers(len(settings.contrasts)))] if lacks else ""
        for contrast in BRIGHTNESS:
            volume = render_brain(anatomy, ageing, visit, settings.shape, contrast, pose)
            volume = _as_scanned(volume, settings, day_rng, noise_rng)
            if contrast not in settings.contrasts or contrast == lacked:
                continue  # only now, so that the draws of the others do not depend on it
            _write(folder / session / "anat" / f"{folder.name}_{session}_{contrast}.nii.gz", volume, affine)
    (folder / f"{folder.name}_sessions.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_brain_tables(root: Path, folders: Sequence[Path], seed: int) -> None:
    """Write what BIDS wants once a study: its description, who took part, and the unit of the ages."""
    lines = ["participant_id\tsex\tgroup"]
    for number, folder in enumerate(folders, start=1):
        _, ageing, _, _ = _drawn([seed, number])
        sex = "FM"[int(np.random.default_rng([seed, number, 4]).integers(2))]
        lines.append(f"{folder.name}\t{sex}\t{('SLOW', 'USUAL', 'FAST')[min(int(ageing.pace / 0.4), 2)]}")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    units = {"age": {"Description": "age at the visit", "Units": "years"}}
    (root / "sessions.json").write_text(json.dumps(units, indent=2) + "\n", encoding="utf-8")
    (root / LABELS / "dseg.tsv").write_text("index\tname\n1\tventricles\n", encoding="utf-8")
    described = {"Name": "Ageing brain phantom of sadm-ray", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    of_labels = {**described, "DatasetType": "derivative", "GeneratedBy": [{"Name": "sadm-ray"}]}
    for folder, description in ((root, described), (root / LABELS, of_labels)):
        (folder / "dataset_description.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _drawn(seed: Sequence[int]) -> tuple[BrainAnatomy, Ageing, np.random.Generator, np.random.Generator]:
    """A random stream for each, so that the draws of one do not depend on those of another."""
    anatomy, ageing, day, noise = (np.random.default_rng([*seed, stream]) for stream in range(4))
    return draw_brain(anatomy), draw_ageing(ageing), day, noise


def _write(file: Path, volume: Shaped[np.ndarray, "d h w"], affine: Float[np.ndarray, "4 4"]) -> None:
    image = nib.Nifti1Image(volume.T, affine)
    image.header.set_xyzt_units("mm", "sec")
    set_geometry(image, affine)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(file, image)


def _atrophy_at(anatomy: BrainAnatomy, ageing: Ageing, visit: int) -> float:
    return anatomy.atrophy + ageing.pace * (ageing.ages[visit] - ageing.ages[0]) / 10


def _ventricles(
    anatomy: BrainAnatomy, atrophy: float, at: Sequence[Float[np.ndarray, "d h w"]], edge: float
) -> Float[np.ndarray, "d h w"]:
    """How much of each voxel lies in a ventricle."""
    ventricle = np.zeros(at[0].shape, np.float32)
    for side in (-1, 1):
        centre = (0.06, -0.02, side * anatomy.apart)
        widened = [
            half * (1 + growth * atrophy) for half, growth in zip(anatomy.ventricle, (0.5, 0.3, 1.3), strict=True)
        ]
        parts = [(axis - middle) / half for axis, middle, half in zip(at, centre, widened, strict=True)]
        distance = np.sqrt(sum(part**2 for part in parts))
        ventricle = np.maximum(ventricle, _inside((1 - distance) * min(widened), edge))
    return ventricle


def _as_scanned(
    volume: Float32[np.ndarray, "d h w"],
    settings: PhantomSettings,
    day_rng: np.random.Generator,
    noise_rng: np.random.Generator,
) -> np.ndarray:
    """With the bias field, noise and gain of one scan; int16."""
    along = day_rng.normal(0, settings.bias, 3)
    field = sum(slope * axis for slope, axis in zip(along, _centres(volume.shape), strict=True))
    noisy = np.abs(volume * np.exp(field) + settings.noise * noise_rng.standard_normal(volume.shape))
    return np.clip(np.rint(noisy * 800 * np.exp(day_rng.normal(0, settings.gain))), 0, 32767).astype(np.int16)


def _posed(shape: Sequence[int], pose: Pose) -> list[Float[np.ndarray, "d h w"]]:
    """Where in the head (d, h, w, half fields of view) each voxel is."""
    half = np.asarray(_FIELD_OF_VIEW) / 2
    points = np.stack(np.broadcast_arrays(*_centres(shape))) * half[:, None, None, None]
    turn = Rotation.from_euler("xyz", pose.turned, degrees=True).as_matrix().T
    inside = np.tensordot(turn, points - np.asarray(pose.moved)[:, None, None, None], axes=1)
    return [axis / size for axis, size in zip(inside, half, strict=True)]


def _folds(seed: int, scaled: Sequence[Float[np.ndarray, "d h w"]]) -> Float[np.ndarray, "d h w"]:
    """A smooth field of deviation 1 that belongs to the tissue; where it is 0 there is a sulcus."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((_FOLDS,) * 3), 2.5, mode="wrap")
    at = [(axis + 1.3) / 2.6 * _FOLDS - 0.5 for axis in scaled]
    return ndimage.map_coordinates(field / field.std(), at, order=1, mode="nearest")


def _centres(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxel centres along d, h, w, whose field of view is −1 to 1."""
    d, h, w = ((np.arange(size) + 0.5) * 2 / size - 1 for size in shape)
    return d[:, None, None], h[None, :, None], w[None, None, :]


def _inside(distance: np.ndarray, edge: float) -> np.ndarray:
    return special.expit(distance / edge)
