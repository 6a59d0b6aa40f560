"""Damaged scans for the tests: every kind is certainly damage, whichever seed it is made with.

A kind writes the file `target` (or what replaces it) from `good`: any sound NIfTI-1 file of little-endian numbers.
"""

from __future__ import annotations

import functools
import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

Damage = Callable[[Path, Path, np.random.Generator], None]
Patch = tuple[int, str, tuple[float, ...]]

DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, QFORM, SFORM, MAGIC = 40, 70, 76, 108, 112, 252, 280, 344
"""Where the fields of the header begin; QFORM are the codes of both, SFORM is the matrix."""
NAN, INFINITY = float("nan"), float("inf")


def content(good: Path) -> bytearray:
    """The file, unpacked."""
    stored = good.read_bytes()
    return bytearray(gzip.decompress(stored) if stored[:2] == b"\x1f\x8b" else stored)


def packed(data: bytes | bytearray) -> bytes:
    """gzip without name and time."""
    return gzip.compress(data, mtime=0)


@functools.cache
def zeros(count: int) -> bytes:
    """Gzip of at least `count` zeros in 64 MiB members, as dense as deflate can: a thousandth of what it unpacks to."""
    member = 64 * 2**20
    return gzip.compress(bytes(member), 9, mtime=0) * math.ceil(count / member)


def any_number(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high))


def header(*patches: Patch) -> Damage:
    """Some of the header is written over; with gzip or without."""

    def make(target: Path, good: Path, rng: np.random.Generator) -> None:
        data = content(good)
        for at, layout, values in patches:
            struct.pack_into(f"<{layout}", data, at, *values)
        target.write_bytes(packed(data) if rng.random() < 0.5 else data)

    return make


def voxels(change: Callable[[np.ndarray, np.random.Generator], None], dtype: type = np.float32) -> Damage:
    """The same image with other values, in every one of its frames."""

    def make(target: Path, good: Path, rng: np.random.Generator) -> None:
        image = nib.load(good)
        values: np.ndarray = np.asarray(image.dataobj, dtype=dtype)
        change(values, rng)
        written = nib.Nifti1Image(values, image.affine)
        target.write_bytes(packed(written.to_bytes()))

    return make


def one_voxel(value: float) -> Callable[[np.ndarray, np.random.Generator], None]:
    def change(values: np.ndarray, rng: np.random.Generator) -> None:
        values[tuple(any_number(rng, 0, size) for size in values.shape[:3])] = value

    return change


def every_voxel(value: float) -> Callable[[np.ndarray, np.random.Generator], None]:
    def change(values: np.ndarray, rng: np.random.Generator) -> None:
        values[:] = value

    return change


def stored(make: Callable[[bytearray, np.random.Generator], bytes | bytearray]) -> Damage:
    """The bytes of a file, made from the unpacked content of the good one."""

    def write(target: Path, good: Path, rng: np.random.Generator) -> None:
        target.write_bytes(make(content(good), rng))

    return write


def truncated(data: bytes | bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: any_number(rng, 1, len(data))])


def flipped_gzip(data: bytearray, rng: np.random.Generator) -> bytes:
    """A bit of the deflate stream or of its checksum; not one of those that stand for nothing, or for the same."""
    whole = packed(data)
    while True:
        broken = bytearray(whole)
        broken[any_number(rng, 10, len(whole))] ^= 1 << any_number(rng, 0, 8)
        try:
            if gzip.decompress(broken) == data:
                continue
        except (OSError, EOFError, zlib.error):
            pass
        return bytes(broken)


def flipped_header(data: bytearray, rng: np.random.Generator) -> bytes:
    """A bit of a field that decides what the rest is. Of the number of axes, one that leaves too few or too many."""
    axes = data[DIM]
    fields = [range(4), range(DIM + 2, DIM + 2 + 2 * axes), range(DATATYPE, DATATYPE + 4)]
    fields += [range(VOX_OFFSET, VOX_OFFSET + 4), range(MAGIC, MAGIC + 4)]
    bits = [8 * byte + bit for byte in (byte for field in fields for byte in field) for bit in range(8)]
    bits += [8 * DIM + bit for bit in range(16) if not 3 <= axes ^ (1 << bit) <= 7]
    bit = bits[any_number(rng, 0, len(bits))]
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def surplus(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data) + rng.bytes(any_number(rng, 0, 5000)) + b"\1"


def bomb_that_promises(data: bytearray, rng: np.random.Generator) -> bytes:
    """30 GB of 8-bit voxels, and they are there."""
    struct.pack_into("<8h", data, DIM, 3, 3000, 3125, 3200, 1, 1, 1, 1)
    struct.pack_into("<2h", data, DATATYPE, 2, 8)
    return packed(data[:352]) + zeros(30 * 10**9)


def text(data: bytearray, rng: np.random.Generator) -> bytes:
    return b"<html><body>404 Not Found</body></html>\n" * any_number(rng, 1, 50)


FOUND_BY_VALUE: dict[str, Damage] = {
    "NaN": voxels(one_voxel(NAN)),
    "infinity": voxels(one_voxel(INFINITY)),
    "beyond float32": voxels(one_voxel(1e300), np.float64),
    "constant": voxels(every_voxel(7)),
    "all zero": voxels(every_voxel(0)),
}
"""Those that are found only when the voxels are looked at; all others are refused when the file is read."""

KINDS: dict[str, Damage] = FOUND_BY_VALUE | {
    "truncated .nii": stored(truncated),
    "truncated gzip": stored(lambda data, rng: truncated(packed(data), rng)),
    "truncated before gzip": stored(lambda data, rng: packed(truncated(data, rng))),
    "truncated checksum": stored(lambda data, rng: packed(data)[: -any_number(rng, 1, 9)]),
    "flipped bit in gzip": stored(flipped_gzip),
    "flipped bit in the header": stored(flipped_header),
    "rubbish behind gzip": stored(lambda data, rng: packed(data) + b"\1" + rng.bytes(20)),
    "surplus": stored(surplus),
    "surplus in gzip": stored(lambda data, rng: packed(surplus(data, rng))),
    "no axes": header((DIM, "h", (0,))),
    "two axes": header((DIM, "h", (2,))),
    "five axes": header((DIM, "8h", (5, 5, 4, 3, 2, 3, 1, 1))),
    "eight axes": header((DIM, "h", (8,))),
    "axis of no size": header((DIM + 4, "h", (0,))),
    "axis of negative size": header((DIM + 6, "h", (-5,))),
    "promises 100 GB": header((DIM, "8h", (4, 3000, 3000, 3000, 2, 1, 1, 1))),
    "promises the most there can be": header((DIM, "8h", (4, 32767, 32767, 32767, 32767, 1, 1, 1))),
    "RGB": header((DATATYPE, "2h", (128, 24))),
    "complex": header((DATATYPE, "2h", (32, 64))),
    "unknown type": header((DATATYPE, "2h", (77, 16))),
    "type against bits": header((DATATYPE, "2h", (64, 16))),
    "huge offset": header((VOX_OFFSET, "f", (1e12,))),
    "offset beyond the end": header((VOX_OFFSET, "f", (2.0**25,))),
    "NaN offset": header((VOX_OFFSET, "f", (NAN,))),
    "negative offset": header((VOX_OFFSET, "f", (-352,))),
    "infinite slope": header((SLOPE, "2f", (INFINITY, 0))),
    "NaN intercept": header((SLOPE, "2f", (1, NAN))),
    "NaN affine": header((QFORM, "2h", (0, 1)), (SFORM, "f", (NAN,))),
    "singular affine": header((QFORM, "2h", (0, 1)), (SFORM, "12f", (0,) * 12)),
    "flat affine": header((QFORM, "2h", (0, 1)), (SFORM, "12f", (1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0))),
    "affine in kilometres": header((QFORM, "2h", (0, 1)), (SFORM, "12f", (1e6, 0, 0, 0, 0, 1e6, 0, 0, 0, 0, 1e6, 0))),
    "no rotation": header((QFORM, "2h", (1, 0)), (QFORM + 4, "3f", (5, 5, 5))),
    "no voxel sizes": header((QFORM, "2h", (1, 0)), (PIXDIM, "4f", (1, 0, 0, 0))),
    "half of a pair": stored(lambda data, rng: data[:MAGIC] + b"ni1\0" + data[MAGIC + 4 :]),
    "header alone": stored(lambda data, rng: data[:352]),
    "bomb behind the voxels": stored(lambda data, rng: packed(data) + zeros(2 * 10**9)),
    "bomb that promises": stored(bomb_that_promises),
    "text": stored(text),
    "gzip of rubbish": stored(lambda data, rng: packed(rng.bytes(len(data)))),
    "rubbish": stored(lambda data, rng: rng.bytes(len(data))),
    "empty": lambda target, good, rng: target.touch(),
    "gzip of nothing": stored(lambda data, rng: packed(b"")),
    "folder": lambda target, good, rng: target.mkdir(),
    "link to nothing": lambda target, good, rng: target.symlink_to(target.with_name("nowhere.nii.gz")),
    "link to itself": lambda target, good, rng: target.symlink_to(target),
    "link to a device": lambda target, good, rng: target.symlink_to("/dev/zero"),
    "pipe": lambda target, good, rng: os.mkfifo(target),
}
"""How to make each kind of damage: (target, good, rng)."""
