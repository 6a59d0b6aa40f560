"""How a source's voxels become the model's, and back.

A volume is (d, h, w) = (z, y, x), the transpose of NIfTI's array. It is turned, cropped, resampled, and at last cut or
padded about its centre. Space only: nothing here mixes frames, since interpolating in time would carry a target into
its context.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Integer, Shaped
from nibabel.orientations import io_orientation
from pydantic import ConfigDict, TypeAdapter

from sadm_ray.data.normalise.foreground import foreground
from sadm_ray.data.normalise.resampling import first_centre, overlap, resample

Orientation = Literal["native", "canonical"]
Crop = Literal["none", "foreground"]

MARGIN = 0.05
"""Left around the foreground on each side, as a share of its size."""
MIN_MARGIN = 2
"""The least margin, in voxels."""
STRAY = 0.001
"""The share of the foreground that may lie beyond each face of its box, so that a speck of noise does not stretch it.
A round brain loses 2 % of its diameter there, less than `MARGIN` gives back."""


@dataclass(frozen=True)
class SpatialTransform:
    """The way from the grid of one subject's source to the model's; all frames of the subject share it."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    source_shape: tuple[int, int, int]
    """(D, H, W) of the file's own grid."""
    axes: tuple[int, int, int]
    """The source's axis that becomes each oriented one."""
    flips: tuple[bool, bool, bool]
    """Which oriented axes run against their source's."""
    crop: tuple[tuple[int, int], ...]
    """Start and stop along each axis in oriented source voxels; all of it where nothing is cropped."""
    resampled: tuple[int, int, int]
    """What the crop is resampled to."""
    shape: tuple[int, int, int]
    """The model's (d, h, w): `resampled`, cut or padded about its centre."""

    def __post_init__(self) -> None:
        if sorted(self.axes) != [0, 1, 2]:
            raise ValueError(f"axes {self.axes} are no permutation of 0, 1, 2")
        if min(*self.source_shape, *self.resampled, *self.shape) < 1:
            raise ValueError(f"a grid has no voxels: {self}")
        oriented = [self.source_shape[axis] for axis in self.axes]
        if not all(0 <= start < stop <= size for (start, stop), size in zip(self.crop, oriented, strict=True)):
            raise ValueError(f"crop {self.crop} does not fit in a volume {oriented}")

    @classmethod
    def plan(
        cls,
        first: Float32[np.ndarray, "D H W"],
        affine: Float[np.ndarray, "4 4"],
        spacing: Sequence[float],
        *,
        shape: Sequence[int],
        target_spacing: Sequence[float] | None,
        orientation: Orientation,
        crop: Crop,
    ) -> SpatialTransform:
        """Choose the grid of a subject from its first frame alone, so that nothing of a later target leaks in.

        Args:
            first: the first frame. With `crop` the foreground of this frame is kept: anatomy that grows beyond the
                margin is cut off in later frames.
            affine: the file's, voxel (x, y, z) to mm.
            spacing: the file's voxel sizes (x, y, z) in mm, which an affine need not agree with.
            shape: the model's (d, h, w).
            target_spacing: voxel sizes (d, h, w) of the oriented volume in mm; none: the field of view is resampled
                to `shape`, whatever voxel sizes that gives.
            orientation: canonical turns the axes to the closest of right, anterior, superior, by swaps and flips
                only; transposed, d then runs to superior, h to anterior, w to the right.
            crop: foreground keeps the box of what is brighter than its surroundings, plus a margin.

        Raises:
            ValueError: an affine without three directions, or sizes that are not positive.
        """
        axes, flips = (0, 1, 2), (False, False, False)
        if orientation == "canonical":
            axes, flips = _canonical(affine)
        oriented = _orient(first, axes, flips)
        box = _foreground(oriented) if crop == "foreground" else tuple((0, size) for size in oriented.shape)
        resampled = _triple(shape)
        if target_spacing is not None:
            if not all(0 < size < np.inf for size in (*spacing, *target_spacing)):
                raise ValueError(f"voxel sizes {tuple(spacing)} and {tuple(target_spacing)} must be positive")
            sizes = [spacing[2 - axis] for axis in axes]  # (x, y, z) of the file to oriented (d, h, w)
            resampled = _triple(
                max(1, round((stop - start) * size / target))
                for (start, stop), size, target in zip(box, sizes, target_spacing, strict=True)
            )
        return cls(_triple(first.shape), axes, flips, box, resampled, _triple(shape))

    def forward(self, volume: Float[np.ndarray, "D H W"]) -> Float32[np.ndarray, "d h w"]:
        """Bring a volume of the source's grid to the model's; what is padded repeats the outermost voxels.

        Raises:
            ValueError: the volume is not on the source's grid.
        """
        kept = self._resampled(volume)[self._kept]
        if kept.shape == self.shape:  # `np.pad` has a large fixed cost
            return kept.copy()
        pads = [(target.start, size - target.stop) for target, size in zip(self._target, self.shape, strict=True)]
        return np.pad(kept, pads, mode="edge")

    def forward_share(self, mask: Bool[np.ndarray, "D H W"]) -> Float32[np.ndarray, "d h w"]:
        """How much of each voxel of the model's grid a structure fills; what is padded has none of it.

        It is resampled as an image is, so that the sum of the shares keeps the structure's volume.

        Raises:
            ValueError: the mask is not on the source's grid.
        """
        share = np.zeros(self.shape, dtype=np.float32)
        share[self._target] = self._resampled(mask.astype(np.float32))[self._kept]
        return share

    def _resampled(self, volume: Float[np.ndarray, "D H W"]) -> Float32[np.ndarray, "d h w"]:
        """Turned, cropped and resampled."""
        _check_shape(volume, self.source_shape)
        return resample(_orient(volume, self.axes, self.flips)[_slices(self.crop)], self.resampled)

    def forward_labels(self, labels: Shaped[np.ndarray, "D H W"]) -> Shaped[np.ndarray, "d h w"]:
        """Bring labels the same way: each voxel takes that of the nearest one; what is padded has none (0).

        Raises:
            ValueError: the labels are not on the source's grid.
        """
        _check_shape(labels, self.source_shape)
        cropped = _orient(labels, self.axes, self.flips)[_slices(self.crop)]
        # The centre (i + ½) / n of `resampled` lies in this voxel of the crop, as in `resample`.
        nearest = [(2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(self.resampled, cropped.shape, strict=True)]
        result = np.zeros(self.shape, dtype=labels.dtype)
        result[self._target] = cropped[np.ix_(*nearest)][self._kept]
        return result

    def seen(self, labels: Shaped[np.ndarray, "D H W"]) -> Shaped[np.ndarray, "n p q"]:
        """The part of a volume of the source's grid that the model's grid reaches, at the source's own resolution.

        Raises:
            ValueError: the volume is not on the source's grid.
        """
        _check_shape(labels, self.source_shape)
        return _orient(labels, self.axes, self.flips)[_slices(self.crop)][self._inside]

    def inverse_labels(self, labels: Integer[np.ndarray, "d h w"]) -> Int32[np.ndarray, "D H W"]:
        """Bring labels back to the source's grid, as `inverse_shares` does with the voxels of each.

        Raises:
            ValueError: the labels are not on the model's grid.
        """
        values = np.unique(labels)
        values = values[values != 0].tolist()
        shares = np.equal.outer(np.asarray(values, dtype=np.int64), labels).astype(np.float32)
        return self.inverse_shares(shares, values)

    def inverse_shares(self, shares: Float[np.ndarray, "s d h w"], values: Sequence[int]) -> Int32[np.ndarray, "D H W"]:
        """The labels on the source's grid of structures that fill these shares of the model's voxels.

        Shares are resampled linearly, as `inverse` does with an image, and a voxel gets the value of the structure that
        fills the most of it; none (0) where the background fills more, or the model saw nothing. So borders are smooth
        where the source's grid is the finer one.

        Args:
            values: of each structure, its label.

        Raises:
            ValueError: the shares are not on the model's grid, or there are more or fewer values.
        """
        most = self.inverse(1.0 - shares.sum(axis=0), outside=1.0)
        labels = np.zeros(self.source_shape, dtype=np.int32)
        for share, value in zip(shares, values, strict=True):
            own = self.inverse(share, outside=0.0)
            larger = own > most
            labels[larger], most[larger] = value, own[larger]
        return labels

    def voxel_size(self, spacing: Sequence[float]) -> tuple[float, float, float]:
        """The size in mm of a voxel of the model's grid along (d, h, w), from that of the source's along (x, y, z)."""
        sizes = (float(spacing[2 - axis]) for axis in self.axes)  # oriented, d h w
        d, h, w = (
            size * (stop - start) / count
            for size, (start, stop), count in zip(sizes, self.crop, self.resampled, strict=True)
        )
        return d, h, w

    def inverse(self, volume: Float[np.ndarray, "d h w"], outside: float) -> Float32[np.ndarray, "D H W"]:
        """Bring a volume of the model's grid back to the source's; what the coarser grid lost stays lost.

        Args:
            outside: the value of source voxels that the model never saw, in the units of `volume`: those outside the
                crop, and those whose centre the cut left out.

        Raises:
            ValueError: the volume is not on the model's grid.
        """
        _check_shape(volume, self.shape)
        # Padded back to what was resampled, so that it is resampled about the same points.
        pads = [(kept.start, size - kept.stop) for kept, size in zip(self._kept, self.resampled, strict=True)]
        whole = np.pad(volume[self._target], pads, mode="edge")
        crop = resample(whole, [stop - start for start, stop in self.crop])
        inside = self._inside
        oriented = np.full([self.source_shape[axis] for axis in self.axes], outside, dtype=np.float32)
        oriented[_slices(self.crop)][inside] = crop[inside]
        return np.ascontiguousarray(_flip(oriented, self.flips).transpose(np.argsort(self.axes)))

    def to_json(self) -> str:
        """For a shard's row or a sidecar; `from_json` reads it."""
        return _JSON.dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> SpatialTransform:
        """The inverse of `to_json`.

        Raises:
            ValueError: the text is no JSON, or describes no grid.
        """
        return _JSON.validate_json(text)

    @property
    def _inside(self) -> tuple[slice, ...]:
        """The voxels of the crop whose centre the model's grid holds."""
        sizes = [stop - start for start, stop in self.crop]
        return tuple(
            slice(first_centre(kept.start, fine, coarse), first_centre(kept.stop, fine, coarse))
            for kept, fine, coarse in zip(self._kept, sizes, self.resampled, strict=True)
        )

    @property
    def _kept(self) -> tuple[slice, ...]:
        """The part of `resampled` that the model's grid holds."""
        return tuple(map(overlap, self.resampled, self.shape))

    @property
    def _target(self) -> tuple[slice, ...]:
        """Where `_kept` lies in the model's grid."""
        return tuple(map(overlap, self.shape, self.resampled))


_JSON = TypeAdapter(SpatialTransform)


def _canonical(affine: Float[np.ndarray, "4 4"]) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """The axes and flips of nibabel's `as_closest_canonical`, for arrays that are the transpose of nibabel's."""
    orientation = io_orientation(affine)
    if not np.isfinite(orientation).all():
        raise ValueError("the affine does not give every axis a direction")
    x, y, z = np.argsort(orientation[:, 0]).tolist()  # the file's axes to the right, to anterior, to superior
    d, h, w = (orientation[[z, y, x], 1] < 0).tolist()
    return (2 - z, 2 - y, 2 - x), (d, h, w)


def _orient(
    volume: Shaped[np.ndarray, "D H W"], axes: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> Shaped[np.ndarray, "oD oH oW"]:
    return _flip(volume.transpose(axes), flips)


def _flip(volume: Shaped[np.ndarray, "D H W"], flips: tuple[bool, bool, bool]) -> Shaped[np.ndarray, "D H W"]:
    return np.flip(volume, tuple(axis for axis in range(3) if flips[axis]))


def _foreground(volume: Float32[np.ndarray, "D H W"]) -> tuple[tuple[int, int], ...]:
    """Start and stop along each axis of the foreground's box and its margin; all of a volume without contrast."""
    inside = foreground(volume)
    return tuple(_extent(np.moveaxis(inside, axis, 0)) for axis in range(3))


def _extent(inside: Bool[np.ndarray, "n p q"]) -> tuple[int, int]:
    """Start and stop, margin and all, of the foreground along the first axis."""
    share = np.cumsum(inside.sum(axis=(1, 2))) / inside.sum()
    start, stop = int(np.searchsorted(share, STRAY, side="right")), int(np.searchsorted(share, 1 - STRAY)) + 1
    margin = max(MIN_MARGIN, round(MARGIN * (stop - start)))
    return max(0, start - margin), min(len(share), stop + margin)


def _slices(box: tuple[tuple[int, int], ...]) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def _triple(sizes: Iterable[int]) -> tuple[int, int, int]:
    d, h, w = (int(size) for size in sizes)
    return d, h, w


def _check_shape(volume: Shaped[np.ndarray, "D H W"], shape: tuple[int, int, int]) -> None:
    if volume.shape != shape:
        raise ValueError(f"a volume {volume.shape} where the grid has {shape}")
