"""A beating heart in short-axis view, written as a study in ACDC's 4D layout.

Left ventricle (bright cavity, dark muscle), right-ventricular crescent and a thorax that stands still. The heart is
drawn at end-diastole and carried along by a smooth motion that preserves the area of the muscle ring, so that the wall
thickens while the cavity shrinks and the speckle travels with the tissue.

How strongly a heart contracts is drawn independently of everything visible at end-diastole: it cannot be predicted from
the first frame alone, but from two frames. That makes the phantom a test of a sequence-aware model.

Of end-diastole and end-systole there are label maps, `patientNNN_frameFF_gt.nii.gz` as in ACDC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from scipy import ndimage, special

from sadm_ray.config import PhantomSettings
from sadm_ray.data.find.label_files import label_stem
from sadm_ray.data.read.nifti_io import set_geometry, write_image


@dataclass(frozen=True)
class Anatomy:
    """All that is visible at end-diastole. Lengths are in half fields of view, angles in radians."""

    centre: tuple[float, float]  # of the left ventricle (y, x)
    cavity: float  # radius of its cavity at the base
    wall: float  # thickness of its muscle at the base
    stretch: float  # ratio of its short to its long in-plane axis
    tilt: float  # direction of the long axis
    right: float  # direction in which the right ventricle lies
    taper: float  # how much narrower the apex is: 0 a cylinder, 1 a half ellipsoid
    blood: float  # brightness; the muscle's and the coil's follow
    muscle: float
    bias: tuple[float, float]  # logarithm of the coil's sensitivity along (y, x)
    texture_seed: int


@dataclass(frozen=True)
class Motion:
    """How the heart moves. Frames count from 0."""

    contraction: float  # of the cavity's radius from end-diastole to end-systole
    ed: int
    es: int
    frames: int
    onset: float  # exponent of time in systole: above 1, the contraction starts late


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """A heart of ordinary variety that fills about two thirds of the field of view."""
    right = rng.uniform(0, 2 * np.pi)
    # The right ventricle lies to one side; moving the left one to the other keeps the whole in view.
    centre = rng.uniform(-0.06, 0.06, 2) - 0.2 * np.array([np.sin(right), np.cos(right)])
    return Anatomy(
        centre=(float(centre[0]), float(centre[1])),
        cavity=rng.uniform(0.32, 0.40),
        wall=rng.uniform(0.14, 0.20),
        stretch=rng.uniform(0.82, 1.0),
        tilt=rng.uniform(0, np.pi),
        right=right,
        taper=rng.uniform(0.65, 0.85),
        blood=rng.uniform(0.8, 0.95),
        muscle=rng.uniform(0.3, 0.4),
        bias=(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)),
        texture_seed=int(rng.integers(2**31)),
    )


def draw_motion(rng: np.random.Generator) -> Motion:
    """A cycle of 16 to 24 frames with at least 8 from end-diastole, mostly the first one, to end-systole."""
    ed = int(rng.choice([0, 1, 2], p=[0.8, 0.1, 0.1]))
    return Motion(
        contraction=rng.uniform(0.15, 0.6),
        ed=ed,
        es=ed + int(rng.integers(7, 11)),
        frames=int(rng.integers(16, 25)),
        onset=rng.uniform(0.85, 1.2),
    )


def draw_heart(seed: Sequence[int]) -> tuple[Anatomy, Motion]:
    """The heart of one patient of a phantom; a random stream for each, so that the draws of one do not move others."""
    return draw_anatomy(np.random.default_rng([*seed, 0])), draw_motion(np.random.default_rng([*seed, 1]))


def treated(motion: Motion, factor: float) -> Motion:
    """The same heart under the treatment, which multiplies its contraction."""
    return replace(motion, contraction=factor * motion.contraction)


def render_heart(anatomy: Anatomy, motion: Motion, shape: Sequence[int]) -> Float32[np.ndarray, "t d h w"]:
    """Draw the cycle without noise on a grid (d, h, w), base to apex; brightness is about 0 to 1.

    The frame of end-diastole depends on the anatomy alone.
    """
    depth, height, width = shape
    y, x = (_centres(height)[:, None], _centres(width)[None, :])
    heart = _heart_at(anatomy, motion, shape)
    rng = np.random.default_rng(anatomy.texture_seed)
    speckle = _warp_texture(_smooth_noise(rng, (depth, 2 * height, 2 * width), 2.5), *heart.origin)
    thorax = np.clip(0.25 + 0.10 * _smooth_noise(rng, (depth, height, width), 3.0), 0.02, 0.6)
    muscle = anatomy.muscle * (1 + 0.15 * speckle)
    blood = anatomy.blood * (1 + 0.03 * speckle)
    right = heart.right
    outside = right * 0.85 * blood + (heart.right_wall - right) * muscle + (1 - heart.right_wall) * thorax
    image = heart.cavity * blood + (heart.epicardium - heart.cavity) * muscle + (1 - heart.epicardium) * outside
    return (image * np.exp(anatomy.bias[0] * y + anatomy.bias[1] * x)).astype(np.float32)


def label_heart(
    anatomy: Anatomy, motion: Motion, shape: Sequence[int], frames: Sequence[int]
) -> UInt8[np.ndarray, "t d h w"]:
    """The label maps of some frames, with ACDC's values: of each voxel what fills the most of it."""
    heart = _heart_at(anatomy, motion, shape, list(frames))
    around = 1 - heart.epicardium
    shares = [around * (1 - heart.right), around * heart.right, heart.epicardium - heart.cavity, heart.cavity]
    return np.argmax(shares, axis=0).astype(np.uint8)  # background, RV cavity, myocardium, LV cavity


class _Heart(NamedTuple):
    """How much of each voxel (t d h w) lies within a surface, and where its tissue was at end-diastole (y, x)."""

    cavity: Float32[np.ndarray, "t d h w"]
    epicardium: Float32[np.ndarray, "t d h w"]
    right: Float32[np.ndarray, "t d h w"]
    right_wall: Float32[np.ndarray, "t d h w"]
    origin: tuple[np.ndarray, np.ndarray]


def _heart_at(
    anatomy: Anatomy, motion: Motion, shape: Sequence[int], frames: slice | list[int] = slice(None)
) -> _Heart:
    depth, height, width = shape
    y, x = (_centres(height)[:, None], _centres(width)[None, :])
    dy, dx = y - anatomy.centre[0], x - anatomy.centre[1]
    along, across = _rotate(dy, dx, anatomy.tilt)
    radius = np.hypot(along * np.sqrt(anatomy.stretch), across / np.sqrt(anatomy.stretch))

    # One size a slice (d, 1, 1) and one state a frame and slice (t, d, 1, 1); radius is (h, w).
    size = np.sqrt(1 - (anatomy.taper * np.linspace(0, 1, depth)) ** 2)[:, None, None].astype(np.float32)
    inner_ed, outer_ed = anatomy.cavity * size, (anatomy.cavity + anatomy.wall) * size
    state = _contraction_curve(motion)[frames][:, None, None, None]
    inner = inner_ed * (1 - motion.contraction * state)
    outer = np.sqrt(outer_ed**2 - inner_ed**2 + inner**2)
    ratio = _material_ratio(radius, inner, outer, inner_ed, outer_ed)
    at_y, at_x = anatomy.centre[0] + ratio * dy, anatomy.centre[1] + ratio * dx

    # The right ventricle is a disc behind the left one; its position is in the tissue's own coordinates.
    offset_y, offset_x = 0.75 * outer_ed * np.sin(anatomy.right), 0.75 * outer_ed * np.cos(anatomy.right)
    from_right = np.hypot(ratio * dy - offset_y, ratio * dx - offset_x)

    edge = 0.7 / max(height, width)  # a third of a voxel: edges as soft as the scanner's own
    cavity, epicardium = _inside(inner - radius, edge), _inside(outer - radius, edge)
    right, right_wall = _inside(1.05 * outer_ed - from_right, edge), _inside(1.05 * outer_ed + 0.05 - from_right, edge)
    return _Heart(cavity, epicardium, right, right_wall, (at_y, at_x))


def write_heart(folder: Path, settings: PhantomSettings, seed: Sequence[int]) -> None:
    """Write a patient's cine, two label maps and `Info.cfg` into `folder`, which is called after the patient."""
    geometry_rng, noise_rng = (np.random.default_rng([*seed, stream]) for stream in (2, 3))
    anatomy, motion = draw_heart(seed)
    group = ("WEAK", "USUAL", "STRONG")[min(int((motion.contraction - 0.15) / 0.15), 2)]
    arm = "" if settings.treatment is None else "AB"[seed[-1] % 2]
    motion = treated(motion, settings.treatment or 1.0) if arm == "B" else motion
    frames = render_heart(anatomy, motion, settings.shape)
    frames += settings.noise * noise_rng.standard_normal(frames.shape, dtype=np.float32)
    gain = geometry_rng.uniform(400, 1500)
    spacing = (float(geometry_rng.uniform(80, 110)) / settings.shape[2],) * 2 + (float(geometry_rng.uniform(8, 10)),)
    affine = _oblique_affine(geometry_rng, spacing)

    image = nib.Nifti1Image(np.clip(np.rint(frames.T * gain), 0, 32767).astype(np.int16), affine)
    image.header.set_xyzt_units("mm", "sec")
    set_geometry(image, affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], 0.9 / motion.frames))
    folder.mkdir(exist_ok=True)
    write_image(folder / f"{folder.name}_4d.nii.gz", image)
    labelled = (motion.ed, motion.es)
    for frame, labels in zip(labelled, label_heart(anatomy, motion, settings.shape, labelled), strict=True):
        label_map = nib.Nifti1Image(labels.T, affine)
        set_geometry(label_map, affine)
        write_image(folder / f"{label_stem(f'{folder.name}_4d.nii.gz', frame)}.nii.gz", label_map)
    entries = {"ED": motion.ed + 1, "ES": motion.es + 1, "Group": group, "Height": 170.0, "NbFrame": motion.frames}
    entries |= {"Weight": 70.0, **({"Treatment": arm} if arm else {})}
    lines = "".join(f"{key}: {value}\n" for key, value in entries.items())
    (folder / "Info.cfg").write_text(lines, encoding="utf-8")


def _contraction_curve(motion: Motion) -> Float32[np.ndarray, " t"]:
    """0 at end-diastole, 1 at end-systole, and back over the rest of the cycle, early filling first."""
    since_ed = (np.arange(motion.frames) - motion.ed) % motion.frames
    systole = motion.es - motion.ed
    squeezing = np.sin(np.pi / 2 * np.minimum(since_ed / systole, 1) ** motion.onset) ** 2
    filling = np.clip((since_ed - systole) / (motion.frames - systole), 0, 1)
    return (squeezing * np.cos(np.pi / 2 * filling**0.7) ** 2).astype(np.float32)


def _material_ratio(
    radius: Float64[np.ndarray, "h w"],
    inner: Float32[np.ndarray, "t d 1 1"],
    outer: Float32[np.ndarray, "t d 1 1"],
    inner_ed: Float32[np.ndarray, "d 1 1"],
    outer_ed: Float32[np.ndarray, "d 1 1"],
) -> Float32[np.ndarray, "t d h w"]:
    """How many times farther from the centre the tissue at `radius` was at end-diastole.

    The cavity scales, the muscle keeps its area, and around it the pull dies away with the distance.
    """
    radius = radius.astype(np.float32)
    muscle = np.sqrt(np.maximum(radius**2 + inner_ed**2 - inner**2, 1e-12))
    around = radius + (outer_ed - outer) * np.exp(np.minimum((outer - radius) / 0.5, 0))
    origin = np.where(radius < inner, radius * (inner_ed / inner), np.where(radius < outer, muscle, around))
    return origin / np.maximum(radius, 1e-6)


def _centres(size: int) -> Float32[np.ndarray, " size"]:
    """Voxel centres along an axis whose field of view is −1 to 1."""
    return ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)


def _rotate(y: np.ndarray, x: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _inside(distance: np.ndarray, edge: float) -> np.ndarray:
    return special.expit(distance / np.float32(edge))


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], sigma: float) -> Float32[np.ndarray, "d h w"]:
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (0.7, sigma, sigma), mode="wrap")
    return noise / noise.std()


def _warp_texture(
    texture: Float32[np.ndarray, "d H W"], y: np.ndarray, x: np.ndarray
) -> Float32[np.ndarray, "t d h w"]:
    """The texture slice by slice at the positions (y, x), in half fields of view, where the tissue came from."""
    _, height, width = texture.shape
    at = np.stack([(y + 1) * (height / 2) - 0.5, (x + 1) * (width / 2) - 0.5])
    slices = [ndimage.map_coordinates(layer, at[:, :, z], order=1, mode="nearest") for z, layer in enumerate(texture)]
    return np.stack(slices, axis=1)


def _oblique_affine(rng: np.random.Generator, spacing: Sequence[float]) -> Float64[np.ndarray, "4 4"]:
    """A double-oblique short-axis plane; rounded to float32, which is what a NIfTI header keeps."""
    a, b = rng.uniform(0.3, 0.8, 2)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-spacing[0], -spacing[1], spacing[2]])
    affine[:3, 3] = rng.uniform(-60, 60, 3)
    return affine.astype(np.float32).astype(np.float64)
