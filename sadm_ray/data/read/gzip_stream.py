"""The bytes of a file in bounded pieces, unpacked where they are gzip: a file may be damaged or malicious."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Iterator
from typing import Any

_PIECE, _UNPACKED = 2**16, 2**20  # bytes that are read, and unpacked, at a time


class ByteStream:
    """The bytes of a file in their order, unpacked if they are gzip by their first bytes (`packed`).

    `digest` is of the bytes as stored, as far as they have been read.
    """

    def __init__(self, source: Any) -> None:
        self.digest = hashlib.sha256()
        pieces = self._read(source)
        first = next(pieces, b"")
        self.packed = first.startswith(b"\x1f\x8b")
        pieces = itertools.chain([first], pieces)
        self._pieces = _unpack(pieces) if self.packed else pieces
        self._rest = memoryview(b"")

    def _read(self, source: Any) -> Iterator[bytes]:
        while piece := source.read(_PIECE):
            self.digest.update(piece)
            yield piece

    def fill(self, target: memoryview) -> int:
        """Fill `target` as far as there are bytes; returns how many there were."""
        filled = 0
        while filled < len(target):
            self._rest = self._rest or memoryview(next(self._pieces, b""))
            if not self._rest:
                break
            taken = self._rest[: len(target) - filled]
            target[filled : filled + len(taken)] = taken
            filled += len(taken)
            self._rest = self._rest[len(taken) :]
        return filled

    def take(self, count: int) -> bytes:
        """The next `count` bytes. EOFError where there are fewer."""
        taken = bytearray(count)
        if self.fill(memoryview(taken)) < count:
            raise EOFError
        return bytes(taken)


def _unpack(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack gzip: any number of members, of each the checksum and the length verified by zlib."""
    member = None
    for piece in pieces:
        while True:
            if member is None:
                piece = piece.lstrip(b"\0")  # padding behind a member
                if not piece:
                    break
                member = zlib.decompressobj(31)
            unpacked = member.decompress(piece, _UNPACKED)
            if unpacked:
                yield unpacked
            if member.eof:
                piece, member = member.unused_data, None
                continue
            piece = member.unconsumed_tail
            if not piece and len(unpacked) < _UNPACKED:
                break
    if member is not None:
        raise EOFError
