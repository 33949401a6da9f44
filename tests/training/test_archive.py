"""What is looked at in an archive is what torch.load reads of it, by whatever rules of its own."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import pytest
from archives import ENDLESS, directory_of, ended, zipped

from stantune.errors import DamagedCheckpointError
from stantune.training import archive, checkpoint

GOOD = pickle.dumps({"version": 1, "identity": "trial 3", "state": {"at": 3}}, protocol=2)
VERSION = ("archive/version", b"3\n")
NAME = "archive/data.pkl"


def with_two_directories() -> bytes:
    """Return an archive with another one before it: its directory is where its end says, or right before its end."""
    here, there = (zipped([(NAME, program), VERSION]) for program in (ENDLESS, GOOD))
    count, size, start = directory_of(here)
    _, _, begin = directory_of(there)
    body, second = here[: start + size], bytearray(there[begin : begin + size])
    # zipfile takes what lies before the archive for something else, and moves all places by its length.
    at, between = 0, size + begin
    while at < len(second):
        lengths, (place,) = struct.unpack_from("<3H", second, at + 28), struct.unpack_from("<L", second, at + 42)
        struct.pack_into("<L", second, at + 42, place + len(body) - between)
        at += 46 + sum(lengths)
    return ended(body + there[:begin] + second, count, size, start)


def test_sound_ones_are_read() -> None:
    assert archive.read(zipped([(NAME, GOOD), VERSION])) == pickle.loads(GOOD)
    assert archive.read(checkpoint.sealed(zipped([(NAME, GOOD), VERSION]))) == pickle.loads(GOOD)


@pytest.mark.parametrize(
    "content",
    [
        zipped([(NAME, ENDLESS), VERSION]),
        ENDLESS + zipped([(NAME, GOOD), VERSION]),
        zipped([("archive/other/data.pkl", GOOD), ("archive/DATA.PKL", ENDLESS), VERSION]),
        zipped([("archive/DATA.PKL", ENDLESS), (NAME, GOOD), VERSION]),
        zipped([(NAME, GOOD), VERSION], zipfile.ZIP_DEFLATED),
        with_two_directories(),
    ],
    ids=["endless", "something before it", "another case", "two cases", "packed", "two directories"],
)
def test_others_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "trial-000003.pt"
    path.write_bytes(checkpoint.sealed(content))
    with pytest.raises(DamagedCheckpointError, match=r"holds what no checkpoint holds; delete it"):
        checkpoint.load(path, "trial 3")
    with pytest.raises(archive.UnsoundError):
        archive.read(path.read_bytes())
