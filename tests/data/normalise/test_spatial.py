from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from sadm_ray.data.normalise.spatial import SpatialTransform

Shape = tuple[int, int, int]
shapes = st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))
ORIENTATIONS = [
    np.diag([*signs, 1.0])[:, [*order, 3]] for order in permutations(range(3)) for signs in product([1, -1], repeat=3)
]


def volume(shape: Shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def smooth(shape: Shape) -> np.ndarray:
    """A wave that is half as long as the field of view, sampled at the voxel centres."""
    z, y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij")
    return (np.sin(2 * np.pi * y) * np.cos(2 * np.pi * x) + 0.5 * z).astype(np.float32)


def ball(shape: Shape, centre: Shape, radius: float) -> np.ndarray:
    offsets = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return (np.square(offsets).sum(axis=0) <= radius**2).astype(np.float32)


def plan(first: np.ndarray, shape: Shape | None = None, **choices: Any) -> SpatialTransform:
    """A transform of 1 mm voxels that changes nothing but what `choices` say."""
    affine, spacing = choices.pop("affine", np.eye(4)), choices.pop("spacing", (1.0, 1.0, 1.0))
    choices = {"target_spacing": None, "orientation": "native", "crop": "none"} | choices
    return SpatialTransform.plan(first, affine, spacing, shape=shape or first.shape, **choices)


def resize_reference(source: np.ndarray, shape: Shape) -> np.ndarray:
    """The anti-aliased linear resampling as scikit-image's `resize` states it."""
    factors = np.divide(source.shape, shape)
    smooth = ndimage.gaussian_filter(source, np.maximum((factors - 1) / 2, 0), mode="nearest")
    return ndimage.zoom(smooth, 1 / factors, order=1, mode="nearest", grid_mode=True)


@given(source=shapes, shape=shapes, seed=st.integers(0, 99))
def test_resampling_agrees_with_the_reference(source: Shape, shape: Shape, seed: int) -> None:
    first = volume(source, seed)
    transform = plan(first, shape)
    forward = transform.forward(first)
    assert forward.shape == shape
    np.testing.assert_array_equal(forward, resize_reference(first, shape))
    np.testing.assert_array_equal(transform.inverse(forward, outside=-1.0), resize_reference(forward, source))


@given(source=st.integers(1, 600), shape=st.integers(1, 600))
def test_the_shape_is_exact_at_any_size(source: int, shape: int) -> None:
    assert plan(volume((1, 2, source)), (2, 1, shape)).forward(volume((1, 2, source))).shape == (2, 1, shape)


@pytest.mark.parametrize(
    ("source", "shape"),
    [((8, 48, 48), (8, 32, 32)), ((7, 95, 100), (8, 64, 64)), ((5, 24, 30), (8, 48, 40)), ((8, 32, 32), (8, 32, 32))],
)
def test_both_grids_see_the_same_field_of_view(source: Shape, shape: Shape) -> None:
    transform = plan(smooth(source), shape)
    forward = transform.forward(smooth(source))
    np.testing.assert_allclose(forward[:, 2:-2, 2:-2], smooth(shape)[:, 2:-2, 2:-2], atol=0.08)
    assert np.sqrt(np.mean((transform.inverse(forward, 0.0) - smooth(source)) ** 2)) < 0.04


def test_what_is_centred_stays_centred() -> None:
    first = np.zeros((6, 40, 40), np.float32)
    first[2:4, 10:30, 10:30] = 1
    forward = plan(first, (6, 16, 16)).forward(first)
    np.testing.assert_allclose(forward, forward[::-1, ::-1, ::-1], atol=1e-6)


def test_detail_finer_than_the_grid_does_not_alias() -> None:
    stripes = np.tile(np.arange(64) % 2, (4, 64, 1)).astype(np.float32)
    assert np.ptp(plan(stripes, (4, 20, 20)).forward(stripes)[..., 2:-2]) < 0.1


@pytest.mark.parametrize("affine", ORIENTATIONS)
def test_canonical_is_that_of_nibabel_and_comes_back_exactly(affine: np.ndarray) -> None:
    tilted = affine.copy()
    tilted[:3, :3] = np.array([[0.95, 0.2, 0.1], [-0.2, 0.96, 0.15], [-0.1, -0.1, 1.1]]) @ affine[:3, :3]
    tilted[:3, 3] = 5, -7, 11
    first = volume((4, 5, 6))
    canonical = nib.as_closest_canonical(nib.Nifti1Image(first.T, tilted))
    shape = canonical.shape[::-1]
    transform = plan(first, shape, affine=tilted, orientation="canonical")
    np.testing.assert_array_equal(transform.forward(first), canonical.get_fdata().T)
    np.testing.assert_array_equal(transform.inverse(transform.forward(first), outside=-1.0), first)

    corner = np.zeros_like(first)
    corner[3, 0, 5] = 1
    (d,), (h,), (w,) = np.nonzero(transform.forward(corner))
    np.testing.assert_allclose(canonical.affine @ [w, h, d, 1], tilted @ [5, 0, 3, 1])


def test_there_are_48_orientations() -> None:
    assert len({affine.tobytes() for affine in ORIENTATIONS}) == 48


def test_an_affine_without_directions_has_no_canonical_orientation() -> None:
    with pytest.raises(ValueError, match="direction"):
        plan(volume((2, 3, 4)), affine=np.diag([1.0, 0, 1, 1]), orientation="canonical")


def test_spacing_goes_with_its_axis() -> None:
    # The file's x runs to superior with 4 mm, its y to the left with 1 mm, its z to anterior with 2 mm.
    affine = np.array([[0, -1, 0, 0], [0, 0, 2, 0], [4, 0, 0, 0], [0, 0, 0, 1.0]])
    first = volume((10, 20, 30))  # z, y, x
    choices = {"affine": affine, "spacing": (4.0, 1.0, 2.0), "target_spacing": (4.0, 2.0, 0.5)}
    transform = plan(first, (30, 10, 40), orientation="canonical", **choices)
    assert transform.resampled == (30, 10, 40)
    np.testing.assert_array_equal(transform.forward(first)[..., ::2].shape, (30, 10, 20))
    assert plan(first, (30, 10, 40), **choices).resampled == (5, 10, 240)
    with pytest.raises(ValueError, match="positive"):
        plan(first, spacing=(1.0, 0.0, 1.0), target_spacing=(1.0, 1.0, 1.0))


def test_a_voxel_never_vanishes_by_resampling() -> None:
    assert plan(volume((1, 4, 4)), target_spacing=(10.0, 10.0, 2.0)).resampled == (1, 1, 2)


@given(source=shapes, shape=shapes)
def test_cut_and_padding_are_undone(source: Shape, shape: Shape) -> None:
    first = volume(source) + 1
    transform = plan(first, shape, target_spacing=(1.0, 1.0, 1.0))
    assert transform.resampled == source
    forward = transform.forward(first)
    assert np.isin(forward, first).all()
    restored = transform.inverse(forward, outside=0.0)
    seen = restored != 0
    assert seen.sum() == np.prod(np.minimum(source, shape))
    np.testing.assert_array_equal(restored[seen], first[seen])
    starts = [max(0, (n - m) // 2) for n, m in zip(source, shape, strict=True)]
    assert [int(axis.min()) for axis in np.nonzero(seen)] == starts


def test_a_cut_of_what_was_resampled_comes_back_where_it_was() -> None:
    first = smooth((8, 64, 64))
    transform = plan(first, (8, 24, 24), target_spacing=(1.0, 2.0, 2.0))
    restored = transform.inverse(transform.forward(first), outside=9.0)
    seen = np.zeros(first.shape, bool)
    seen[:, 8:56, 8:56] = True  # the middle 24 of 32 voxels, each of 2
    np.testing.assert_array_equal(restored == 9, ~seen)
    assert np.abs(restored - first)[:, 10:54, 10:54].max() < 0.03


@given(source=shapes, shape=shapes, target=st.tuples(*[st.floats(0.4, 3)] * 3))
def test_a_source_voxel_was_seen_if_its_centre_was(
    source: Shape, shape: Shape, target: tuple[float, float, float]
) -> None:
    transform = plan(volume(source), shape, target_spacing=target)
    seen = np.ones(source, bool)
    for axis, (n, m, kept) in enumerate(zip(source, transform.resampled, shape, strict=True)):
        start = max(0, (m - kept) // 2)
        centres = (2 * np.arange(n) + 1) * m  # in units of 1 / 2n of a resampled voxel
        along = (2 * n * start <= centres) & (centres < 2 * n * (start + min(m, kept)))
        seen &= np.expand_dims(along, [other for other in range(3) if other != axis])
    np.testing.assert_array_equal(transform.inverse(np.ones(shape, np.float32), outside=-1.0) != -1, seen)


@settings(max_examples=50)
@given(source=shapes, shape=shapes, target=st.tuples(*[st.floats(0.4, 3)] * 3), affine=st.sampled_from(ORIENTATIONS))
def test_any_transform_is_inverted_and_goes_through_json(
    source: Shape, shape: Shape, target: tuple[float, float, float], affine: np.ndarray
) -> None:
    first = volume(source) + 1
    transform = plan(first, shape, affine=affine, orientation="canonical", target_spacing=target, crop="foreground")
    forward = transform.forward(first)
    assert forward.shape == shape
    restored = transform.inverse(forward, outside=0.0)
    assert restored.shape == source
    assert ((restored == 0) | ((restored > 0.99) & (restored < 2.01))).all()
    assert SpatialTransform.from_json(transform.to_json()) == transform


def test_the_foreground_and_its_margin_are_kept() -> None:
    first = ball((40, 60, 80), (15, 30, 50), 10)
    first[0, 0, 0] = 1  # a speck
    transform = plan(first, (23, 23, 23), crop="foreground")
    # The single voxels that touch radius 10 are strays, and the margin of 2 voxels gives them back.
    assert transform.crop == ((4, 27), (19, 42), (39, 62))
    forward = transform.forward(first)
    assert forward.sum() == first.sum() - 1
    np.testing.assert_array_equal(forward, first[4:27, 19:42, 39:62])
    restored = transform.inverse(forward, outside=-1.0)
    assert (restored == -1).sum() == first.size - 23**3
    np.testing.assert_array_equal(restored[4:27, 19:42, 39:62], forward)


def test_the_margin_grows_with_the_foreground() -> None:
    first = 0.05 * volume((4, 150, 150))  # noisy air
    first[:, 25:125, 45:105] += 1
    assert plan(first, crop="foreground").crop == ((0, 4), (20, 130), (42, 108))


@pytest.mark.parametrize(
    "first", [np.ones((4, 5, 6), np.float32), volume((4, 5, 6)), 1 - ball((4, 5, 6), (1, 2, 2), 1)]
)
def test_without_a_background_nothing_is_cropped(first: np.ndarray) -> None:
    assert plan(first, crop="foreground").crop == ((0, 4), (0, 5), (0, 6))


def test_later_frames_share_the_grid_of_the_first() -> None:
    first, later = ball((20, 20, 20), (6, 6, 6), 3), ball((20, 20, 20), (8, 6, 6), 5)
    transform = plan(first, (11, 11, 11), crop="foreground")
    (d0, d1), (h0, h1), (w0, w1) = transform.crop
    np.testing.assert_array_equal(transform.forward(later), later[d0:d1, h0:h1, w0:w1])


def test_a_volume_of_another_source_is_refused() -> None:
    transform = plan(volume((4, 5, 6)), (2, 3, 4))
    with pytest.raises(ValueError, match="where the grid has"):
        transform.forward(volume((4, 6, 5)))
    with pytest.raises(ValueError, match="where the grid has"):
        transform.inverse(volume((4, 5, 6)), 0.0)


GOOD = plan(volume((4, 5, 6))).to_json()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1, 2]",
        GOOD[:-1],
        GOOD.replace('"axes":[0,1,2]', '"axes":[0,1,1]'),
        GOOD.replace('"axes":[0,1,2]', '"axes":[0,1]'),
        GOOD.replace("[0,6]", "[0,7]"),
        GOOD.replace("[0,6]", "[3,3]"),
        GOOD.replace("[0,4],", ""),
        GOOD.replace("false", "0"),
        GOOD.replace('"shape":[4,5,6]', '"shape":[4,5,6.5]'),
        GOOD.replace('"shape":[4,5,6]', '"shape":[4,5,0]'),
        GOOD.replace("{", '{"more":1,', 1),
    ],
)
def test_invalid_json_is_no_transform(text: str) -> None:
    assert text != GOOD
    with pytest.raises(ValueError, match=r"(?s)."):
        SpatialTransform.from_json(text)


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name",
    [
        "brain_growth_bids/sub-crlsb/ses-ga21/anat/sub-crlsb_ses-ga21_T2w.nii.gz",
        "brain_growth_bids/sub-crlsb/ses-ga34/anat/sub-crlsb_ses-ga34_T2w.nii.gz",
        "ms_two_visits_bids/sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "ms_two_visits_bids/sub-12/ses-1/anat/sub-12_ses-1_T2w.nii.gz",
        "ms_two_visits_bids/sub-19/ses-1/anat/sub-19_ses-1_FLAIR.nii.gz",
    ],
)
def test_real_brains(real_data: Path, name: str) -> None:
    image = nib.load(real_data / name)
    first = np.ascontiguousarray(np.asarray(image.dataobj, dtype=np.float32).T)
    spacing = [float(size) for size in image.header.get_zooms()]
    transform = plan(
        first,
        (80, 112, 96),
        affine=image.affine,
        spacing=spacing,
        target_spacing=(2.0, 2.0, 2.0),
        orientation="canonical",
        crop="foreground",
    )
    assert np.prod([stop - start for start, stop in transform.crop]) < first.size
    forward = transform.forward(first)
    restored = transform.inverse(forward, outside=0.0)
    brain = first != 0
    oriented = nib.as_closest_canonical(image).get_fdata(dtype=np.float32).T
    inside = oriented[tuple(slice(start, stop) for start, stop in transform.crop)]
    assert (inside != 0).sum() > 0.99 * brain.sum()
    assert np.corrcoef(restored[brain], first[brain])[0, 1] > 0.8


def test_the_size_of_a_voxel_follows_the_grid() -> None:
    plan = {"target_spacing": None, "orientation": "native", "crop": "none"}
    transform = SpatialTransform.plan(
        np.zeros((8, 40, 20), np.float32), np.eye(4), (1.0, 2.0, 5.0), shape=(4, 10, 10), **plan
    )  # type: ignore[arg-type]
    assert transform.voxel_size((1.0, 2.0, 5.0)) == (10.0, 8.0, 2.0)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::7])
def test_labels_come_back_where_they_were(orientation: np.ndarray) -> None:
    """Through another grid, turned and cropped: smooth shapes keep their place and size."""
    source = (9, 40, 36)
    labels = 3 * ball(source, (4, 22, 14), 11).astype(np.int32) - 2 * ball(source, (4, 22, 14), 6).astype(np.int32)
    first = ball(source, (4, 20, 18), 15) * 100
    transform = plan(first, (28, 30, 32), affine=orientation, orientation="canonical", crop="foreground")
    restored = transform.inverse_labels(transform.forward_labels(labels))
    assert restored.shape == source
    assert restored.dtype == np.int32
    assert set(np.unique(restored)) == {0, 1, 3}
    for value in (1, 3):
        mine, there = labels == value, restored == value
        assert 2 * (mine & there).sum() / (mine.sum() + there.sum()) > 0.9
        assert there.sum() == pytest.approx(mine.sum(), rel=0.1)


def test_labels_come_back_exactly_where_nothing_is_resampled() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (6, 9, 8)).astype(np.int32)
    transform = plan(labels.astype(np.float32), (4, 12, 8), target_spacing=(1.0, 1.0, 1.0))
    restored = transform.inverse_labels(transform.forward_labels(labels))
    np.testing.assert_array_equal(restored[1:5], labels[1:5])
    assert not restored[[0, 5]].any(), "what the model did not see has no label"


@pytest.mark.parametrize("shape", [(5, 17, 13), (9, 40, 36), (12, 50, 44)])
def test_shares_keep_the_volume_of_a_structure(shape: Shape) -> None:
    """On a coarser, the same and a finer grid; labels of the nearest voxel are farther off."""
    source = (9, 40, 36)
    mask = ball(source, (4, 21, 15), 4).astype(bool)
    transform = plan(mask.astype(np.float32), shape)
    own = np.prod(transform.voxel_size((1.0, 1.0, 1.0)))
    assert transform.forward_share(mask).sum() * own == pytest.approx(mask.sum(), rel=0.02)


def test_what_the_model_sees_is_counted_at_the_sources_own_resolution() -> None:
    labels = np.arange(6 * 9 * 8).reshape(6, 9, 8)
    cut = plan(labels.astype(np.float32), (4, 12, 8), target_spacing=(1.0, 1.0, 1.0))
    np.testing.assert_array_equal(cut.seen(labels), labels[1:5])
    coarse = plan(labels.astype(np.float32), (3, 4, 4))
    np.testing.assert_array_equal(coarse.seen(labels), labels)
    whole = coarse.inverse(np.ones((3, 4, 4), np.float32), outside=0.0)
    assert whole.sum() == coarse.seen(labels).size, "as many as come back"


def test_padding_has_no_share() -> None:
    mask = np.ones((3, 4, 5), bool)
    share = plan(mask.astype(np.float32), (5, 8, 5), target_spacing=(1.0, 1.0, 1.0)).forward_share(mask)
    assert share.sum() == mask.sum()
    assert not share[0].any()


def test_shares_come_back_as_the_structure_that_fills_the_most() -> None:
    """What is between two structures, and filled by neither, is background."""
    source = (4, 30, 30)
    masks = [ball(source, (2, 15, 8), 6).astype(bool), ball(source, (2, 15, 22), 6).astype(bool)]
    transform = plan(masks[0].astype(np.float32), (4, 20, 24))
    shares = np.stack([transform.forward_share(mask) for mask in masks])
    labels = transform.inverse_shares(shares, [7, 2])
    assert set(np.unique(labels)) == {0, 2, 7}
    for mask, value in zip(masks, (7, 2), strict=True):
        assert 2 * (mask & (labels == value)).sum() / (mask.sum() + (labels == value).sum()) > 0.9
    with pytest.raises(ValueError, match="zip"):
        transform.inverse_shares(shares, [7])
