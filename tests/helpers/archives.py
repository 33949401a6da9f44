"""Archives that end as PyTorch's do, with anything in them."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable

# {(((…)))}: each tuple is twice the one before.
DOUBLED = b")q\x01" + b"h\x01h\x01\x86q\x01" * 60
# A pickle that no process comes to the end of: such a tuple is the key of a dict.
ENDLESS = b"\x80\x02}(" + DOUBLED + b"tK\x01s."


def zipped(parts: Iterable[tuple[str, bytes]], packed: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of files; the same name may be there twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name, content in parts:
            archive.writestr(name, content)
    return ended(buffer.getvalue()[: -_END.size], *directory_of(buffer.getvalue()))


def ended(body: bytes, count: int, size: int, start: int) -> bytes:
    """Return what lies before an archive's end with that end, whose numbers of 64 bits say where the directory is."""
    numbers = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    where = struct.pack("<4sLQL", b"PK\6\7", 0, len(body), 1)
    return body + numbers + where + _END.pack(b"PK\5\6", 0, 0, count, count, size, start, 0)


def directory_of(archive: bytes) -> tuple[int, int, int]:
    """Return how many entries an archive's directory has, its size and its start."""
    *_, count, size, start, _ = _END.unpack(archive[-_END.size :])
    return count, size, start


_END = struct.Struct("<4s4H2LH")
