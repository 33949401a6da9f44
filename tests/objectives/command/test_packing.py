"""A folder comes back from its checkpoint as it was, or is refused: nothing in between, and nothing outside of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stantune.errors import CheckpointError, DamagedCheckpointError, StantuneError
from stantune.objectives.command import packing

names = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(os.fsencode(name)) < 200
)
# What a training notes.
NOTED = {"done": 3, "from": 0, "metrics": {"loss": 0.5}, "diverged_at": None, "seconds": 1.5}
# A file is its content and whether it is executable.
trees = st.recursive(
    st.tuples(st.binary(max_size=3000), st.booleans()),
    lambda below: st.dictionaries(names, below, max_size=4),
    max_leaves=12,
).filter(lambda tree: isinstance(tree, dict))


def lay(tree: dict, folder: Path) -> None:
    folder.mkdir()
    for name, what in tree.items():
        if isinstance(what, dict):
            lay(what, folder / name)
        else:
            (folder / name).write_bytes(what[0])
            (folder / name).chmod(0o755 if what[1] else 0o644)


def look(folder: Path) -> dict:
    return {
        place.name: look(place) if place.is_dir() else (place.read_bytes(), os.access(place, os.X_OK))
        for place in folder.iterdir()
    }


def back(path: Path, identity: str, folder: Path):
    with packing.opened(path, identity) as pack:
        if pack is None:
            return None
        pack.unpack(folder)
        return pack.note


@given(trees, st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False) | st.none() | st.text()))
@settings(max_examples=60)
def test_it_comes_back_as_it_was(tree, note):
    with tempfile.TemporaryDirectory() as where:
        here = Path(where)
        lay(tree, here / "before")
        packing.pack(here / "before", here / "kept.pt", "mine", {**note, **NOTED})
        assert back(here / "kept.pt", "mine", here / "after") == {**note, **NOTED}
        assert look(here / "after") == tree
        assert sorted(place.name for place in here.iterdir()) == ["after", "before", "kept.pt"]


@given(st.data())
@settings(max_examples=60)
def test_what_is_cut_or_altered_is_found_before_anything_is_unpacked(data):
    with tempfile.TemporaryDirectory() as where:
        here = Path(where)
        lay({"a": (bytes(range(200)), False), "b": {"c": (b"x", True)}}, here / "before")
        packing.pack(here / "before", here / "kept.pt", "mine", {**NOTED, "at": 3})
        content = bytearray((here / "kept.pt").read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] ^= data.draw(st.integers(1, 255))
        else:
            del content[place:]
        (here / "kept.pt").write_bytes(content)
        with pytest.raises(DamagedCheckpointError, match="cut short or altered; delete it"):
            back(here / "kept.pt", "mine", here / "after")
        assert not (here / "after").exists()


@pytest.fixture
def folder(tmp_path):
    lay({"weights.bin": (b"1234", False)}, tmp_path / "state")
    return tmp_path / "state"


def test_there_may_be_none(tmp_path):
    assert back(tmp_path / "kept.pt", "mine", tmp_path / "after") is None
    assert not (tmp_path / "after").exists()


def test_another_trials_is_refused(tmp_path, folder):
    packing.pack(folder, tmp_path / "kept.pt", "mine", NOTED)
    with pytest.raises(CheckpointError, match="another trial's") as caught:
        back(tmp_path / "kept.pt", "yours", tmp_path / "after")
    assert not isinstance(caught.value, DamagedCheckpointError)


def test_times_of_change_are_kept(tmp_path, folder):
    os.utime(folder / "weights.bin", (1e9, 1e9 + 0.5))
    packing.pack(folder, tmp_path / "kept.pt", "mine", NOTED)
    back(tmp_path / "kept.pt", "mine", tmp_path / "after")
    assert (tmp_path / "after/weights.bin").stat().st_mtime == 1e9 + 0.5


def test_a_hard_link_is_a_file(tmp_path, folder):
    os.link(folder / "weights.bin", folder / "again.bin")
    packing.pack(folder, tmp_path / "kept.pt", "mine", NOTED)
    back(tmp_path / "kept.pt", "mine", tmp_path / "after")
    assert look(tmp_path / "after") == look(folder)


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar here")
def test_tar_reads_it(tmp_path, folder):
    packing.pack(folder, tmp_path / "kept.pt", "mine", NOTED)
    done = subprocess.run(["tar", "-xf", "kept.pt"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert (tmp_path / "state/weights.bin").read_bytes() == b"1234"
    assert (tmp_path / "stantune.json").exists()


def link(folder):
    (folder / "latest").symlink_to("weights.bin")


def link_to_a_folder(folder):
    (folder / "all").symlink_to("/")


def fifo(folder):
    os.mkfifo(folder / "pipe")


def bound(folder):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))


@pytest.mark.parametrize("make", [link, link_to_a_folder, fifo, bound])
def test_what_is_neither_file_nor_folder_is_not_packed(tmp_path, folder, make, monkeypatch):
    packing.pack(folder, tmp_path / "kept.pt", "mine", {**NOTED, "at": 1})
    monkeypatch.chdir(folder)  # a socket's path must be short
    make(folder if make is not bound else Path())
    with pytest.raises(ValueError, match="a checkpoint keeps files and folders alone; leave none there"):
        packing.pack(folder, tmp_path / "kept.pt", "mine", {**NOTED, "at": 2})
    assert back(tmp_path / "kept.pt", "mine", tmp_path / "after") == {**NOTED, "at": 1}
    assert not list(tmp_path.glob(".*.part"))


def test_a_disk_that_is_full_leaves_the_old_one(tmp_path, folder, monkeypatch):
    packing.pack(folder, tmp_path / "kept.pt", "mine", {**NOTED, "at": 1})

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing.os, "fsync", full)
    with pytest.raises(StantuneError, match=r"cannot be written \(No space left on device\); make room"):
        packing.pack(folder, tmp_path / "kept.pt", "mine", {**NOTED, "at": 2})
    monkeypatch.undo()
    assert back(tmp_path / "kept.pt", "mine", tmp_path / "after") == {**NOTED, "at": 1}
    assert not list(tmp_path.glob(".*.part"))


HEAD = json.dumps({"version": 1, "identity": "mine", "note": NOTED}).encode()


def forged(path: Path, *members: tarfile.TarInfo, content: bytes = b"evil", head: bytes | None = HEAD) -> None:
    """Write a file as `pack` would, sound and with the right identity, that holds other things."""
    archive_bytes = io.BytesIO()
    with tarfile.open(fileobj=archive_bytes, mode="w", format=tarfile.PAX_FORMAT) as archive:
        if head is not None:
            first = tarfile.TarInfo(packing.NOTE)
            first.size = len(head)
            archive.addfile(first, io.BytesIO(head))
        for member in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    body = archive_bytes.getvalue()
    path.write_bytes(body + b"sha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


STATE = member("state", tarfile.DIRTYPE)


@pytest.mark.parametrize(
    "members",
    [
        [member("state/../../out")],
        [member("../out")],
        [member("/tmp/stantune-out")],
        [member("state//tmp/stantune-out")],
        [member("state/./out")],
        [member("out")],
        [member("state/link", tarfile.SYMTYPE, "..")],
        [member("state/link", tarfile.SYMTYPE, ".."), member("state/link/out")],
        [member("state/link", tarfile.LNKTYPE, "../out")],
        [member("state/pipe", tarfile.FIFOTYPE)],
        [member("state/null", tarfile.CHRTYPE)],
        [member("state/a"), member("state/a")],
        [member("state/a"), member("state/a/b")],
        [member("state/missing/b")],
        [member("state/a\0b")],
    ],
    ids=lambda members: members[-1].name + str(len(members)) + members[-1].type.decode(),
)
def test_nothing_leads_out_of_the_folder(tmp_path, members):
    out = tmp_path / "in" / "after"
    out.parent.mkdir()
    forged(tmp_path / "kept.pt", STATE, *members)
    if members[-1].name == "state/a\0b":  # tar itself cuts the name there
        back(tmp_path / "kept.pt", "mine", out)
    else:
        with pytest.raises(DamagedCheckpointError, match="delete it and the trial is trained again"):
            back(tmp_path / "kept.pt", "mine", out)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["in", "kept.pt"]
    assert [place.name for place in out.parent.iterdir()] == ["after"]
    assert not any(place.is_symlink() for place in out.rglob("*"))
    assert not Path("/tmp/stantune-out").exists()


def noted(**changed: object) -> bytes:
    return json.dumps({"version": 1, "identity": "mine", "note": {**NOTED, **changed}}).encode()


@pytest.mark.parametrize(
    "head",
    [
        b"[" * 100_000,
        b"[]",
        b"\xff",
        b"no JSON",
        b'{"version": 1, "identity": "mine"}',
        b'{"version": 1, "identity": "mine", "note": {}}',
        b'{"version": 1, "identity": "mine", "note": [1]}',
        noted(done="3"),
        noted(metrics=None),
        noted(seconds=[1]),
        noted(diverged_at="3"),
        noted(**{"from": None}),
    ],
    ids=lambda head: head[:60].decode(errors="replace"),
)
def test_a_note_that_no_training_makes_is_damage(tmp_path, head):
    forged(tmp_path / "kept.pt", STATE, head=head)
    with pytest.raises(DamagedCheckpointError, match=r"holds (a note that no training makes|what no checkpoint)"):
        back(tmp_path / "kept.pt", "mine", tmp_path / "after")
    assert not (tmp_path / "after").exists()


def test_a_note_that_is_a_link_is_none(tmp_path):
    """To itself it leads nowhere, and elsewhere to what nobody noted."""
    for kind, to in ((tarfile.SYMTYPE, packing.NOTE), (tarfile.LNKTYPE, packing.NOTE), (tarfile.DIRTYPE, "")):
        forged(tmp_path / "kept.pt", member(packing.NOTE, kind, to), STATE, head=None)
        with pytest.raises(CheckpointError, match=r"is another trial's or another version's; put"):
            back(tmp_path / "kept.pt", "mine", tmp_path / "after")


@given(st.binary(max_size=2000))
@settings(max_examples=60)
def test_any_bytes_with_a_right_digest_are_refused_in_a_sentence(body):
    with tempfile.TemporaryDirectory() as where:
        path = Path(where, "kept.pt")
        path.write_bytes(body + b"sha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n")
        with pytest.raises(CheckpointError, match=r"kept\.pt (holds|is another)"):
            back(path, "mine", Path(where, "after"))


def test_no_torch_is_loaded():
    code = "import sys, stantune.objectives.command.packing; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
