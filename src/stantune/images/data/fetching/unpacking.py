"""Unpacks gzip streams and tar archives of unknown origin, within limits of size that the caller knows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

_PIECE = 1 << 18
_BLOCK = 512
# The types of a tar archive's members that are plain files; all others are passed over with their content.
_PLAIN = (b"0", b"\0", b"7")
_NAME, _SIZE, _SUM, _TYPE = slice(0, 100), slice(124, 136), slice(148, 156), slice(156, 157)


class UnsoundError(ValueError):
    """A file is not what it should be; the message is a predicate such as "is cut short (3 of 16 bytes)"."""


def most_packed(size: int) -> int:
    """The most bytes that a gzip file of `size` bytes of content may have; what cannot be packed grows by less."""
    return size + size // 8 + (1 << 16)


def gunzipped(stream: BinaryIO, most: int) -> Iterator[bytes]:
    """The content of a gzip file, in pieces, and no more than its first `most` bytes.

    Its own length and the number of its members have limits, too: neither a small file that unpacks to a large one
    nor a large one that unpacks to nothing takes memory or time. Raises UnsoundError where it is cut short, altered
    or beyond them, OSError where it cannot be read.
    """
    packed_left, members_left = most_packed(most), 1000 + most // 4096

    def taken() -> bytes:
        nonlocal packed_left
        packed = stream.read(_PIECE)
        packed_left -= len(packed)
        if packed_left < 0:
            raise UnsoundError("is altered (longer than its content can be when packed)")
        return packed

    packed = taken()
    while members_left > 0:
        members_left -= 1
        member = zlib.decompressobj(31)
        while not member.eof:
            if not packed:
                raise UnsoundError("is cut short (its gzip stream ends early)")
            try:
                piece = member.decompress(packed, min(most, _PIECE))
            except zlib.error:
                raise UnsoundError("is altered (not a sound gzip file)") from None
            if piece:
                yield piece
                most -= len(piece)
                if most == 0:
                    return
            packed = member.unconsumed_tail or (b"" if member.eof else taken())
        # Like gzip itself: several members in a row are one content, and zeros behind the last one are nothing.
        packed = member.unused_data.lstrip(b"\0")
        while not packed:
            more = taken()
            if not more:
                return
            packed = more.lstrip(b"\0")
    raise UnsoundError("is altered (of more gzip members than its content can have)")


class Pieces:
    """A content that comes in pieces, read from its beginning to its end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def some(self, most: int) -> memoryview:
        """The next bytes, one to `most` of them; none at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return self._rest
            self._rest = memoryview(piece)
        found, self._rest = self._rest[:most], self._rest[most:]
        return found

    def many(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes; raises UnsoundError where there are fewer."""
        while size:
            found = self.some(size)
            if not found:
                raise UnsoundError("is cut short (its archive ends early)")
            yield found
            size -= len(found)


def tar_members(content: Pieces) -> Iterator[tuple[str, int, Iterator[memoryview]]]:
    """The plain files of a tar archive: the last part of each one's name, its size and its content.

    A content must be read before the next member is asked for; what is left of it is passed over. Names of more than
    100 bytes come cut: no data set has one. Nothing but one header is held in memory. Raises UnsoundError where the
    archive is cut short or altered.
    """
    while True:
        first = content.some(_BLOCK)
        if not first:
            return
        header = b"".join((first, *content.many(_BLOCK - len(first))))
        if not any(header):
            return
        size = _number(header[_SIZE])
        blank = b" " * (_SUM.stop - _SUM.start)
        if _number(header[_SUM]) != sum(header[: _SUM.start] + blank + header[_SUM.stop :]):
            raise UnsoundError("is altered (not a sound tar archive)")
        pieces = content.many(size)
        if header[_TYPE] in _PLAIN:
            name = header[_NAME].partition(b"\0")[0].decode("utf-8", "replace")
            yield name.rpartition("/")[2], size, pieces
        for _ in pieces:
            pass
        for _ in content.many(-size % _BLOCK):
            pass


def _number(field: bytes) -> int:
    """A number of a tar header: octal digits that a blank or a zero ends."""
    digits = field.split(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise UnsoundError("is altered (not a sound tar archive)")
    return int(digits or b"0", 8)
