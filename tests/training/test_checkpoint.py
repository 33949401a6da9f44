"""Checkpoints are read with suspicion: what is cut short, altered, swapped or from elsewhere is refused."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import DOUBLED, ENDLESS, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from stantune.errors import CheckpointError, ForeignCheckpointError, StantuneError
from stantune.images.data import Dataset, Split
from stantune.images.problem.built_in import Problem
from stantune.images.solving.solver import Solver
from stantune.space import Space
from stantune.training import checkpoint
from stantune.training.train import run
from stantune.user_code.noted import Digest

on_one_file = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def state() -> dict[str, Any]:
    weights = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    return {
        "iteration": 200,
        "model": {"w": weights, "count": torch.tensor(3)},
        "optimizer": {"state": {0: {"momentum_buffer": weights * 2}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "random": torch.get_rng_state(),
        "random_cuda": None,
        "cost": {"exact_seconds": 0.5},
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "trial-000003.pt"
    checkpoint.save(path, "trial 3", state())
    return path


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def test_what_was_saved_is_loaded(path: Path) -> None:
    loaded = checkpoint.load(path, "trial 3")
    assert loaded is not None
    assert same(loaded, state())
    assert loaded["model"]["w"].dtype == torch.float32


def test_a_file_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "none.pt", "trial 3") is None
    assert checkpoint.load(tmp_path / "nowhere" / "none.pt", "trial 3") is None


def test_it_is_an_ordinary_file_of_torch(path: Path) -> None:
    # So that the weights of a search's final training can be used without stantune.
    saved = torch.load(path, weights_only=True)
    assert (saved["version"], saved["identity"]) == (1, "trial 3")
    assert same(saved["state"], state())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment == b"sha256 " + hashlib.sha256(path.read_bytes()[:-71]).hexdigest().encode()


def refused(path: Path, content: bytes, message: str = "cut short or altered") -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(path, "trial 3")
    assert str(path) in str(caught.value)
    assert "delete it and the trial is trained again" in str(caught.value)
    assert "\n" not in str(caught.value)


@on_one_file
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_is_refused(path: Path, share: float) -> None:
    checkpoint.save(path, "trial 3", state())
    content = path.read_bytes()
    refused(path, content[: int(share * len(content))])


def test_a_file_cut_at_either_end_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for length in (0, 1, 21, 22, 70, 71, 72, len(content) - 72, len(content) - 71, len(content) - 1):
        refused(path, content[:length])
    refused(path, content[1:])
    refused(path, content + b"\0")


@on_one_file
@given(share=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_changed_byte_is_noticed_wherever_it_is(path: Path, share: float, bits: int) -> None:
    checkpoint.save(path, "trial 3", state())
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= bits
    refused(path, bytes(content))


def test_every_single_byte_counts(path: Path) -> None:
    content = path.read_bytes()
    assert len(content) < 20_000
    for place in range(0, len(content)):
        altered = bytearray(content)
        altered[place] ^= 1
        assert not checkpoint.is_sound(bytes(altered))


def test_another_trials_file_is_refused(path: Path, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "other.pt", "trial 4", state())
    refused(path, (tmp_path / "other.pt").read_bytes(), "another trial's or another version's; put the right file back")


def test_another_versions_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    with pytest.raises(CheckpointError, match="another version's"):
        checkpoint.load(path, "trial 3")


class Bomb:
    """An object whose unpickling runs code."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.file),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_file_is_not_run(path: Path, tmp_path: Path) -> None:
    exploded = tmp_path / "exploded"
    buffer = io.BytesIO()
    torch.save({"version": 1, "identity": "trial 3", "state": Bomb(exploded)}, buffer)
    # Even where whoever made it knew of the digest.
    sealed = checkpoint.sealed(buffer.getvalue())
    refused(path, sealed, "holds what no checkpoint holds")
    refused(path, checkpoint.sealed(pickle.dumps(Bomb(exploded)) + b"\0\0"), "holds what no checkpoint holds")
    refused(path, checkpoint.sealed(b"no archive"), "holds what no checkpoint holds")
    assert not exploded.exists()
    torch.load(io.BytesIO(sealed), weights_only=False)
    assert exploded.exists()  # it would have been run


def with_program(path: Path, program: bytes, packed: int = zipfile.ZIP_STORED) -> bytes:
    """Return a sealed checkpoint whose pickle is another one."""
    with zipfile.ZipFile(path) as old:
        parts = [(name, program if name.endswith("/data.pkl") else old.read(name)) for name in old.namelist()]
    return checkpoint.sealed(zipped(parts, packed))


SHARED = {
    "key of a dict": ENDLESS,
    "key of a storage": b"\x80\x02X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    + DOUBLED
    + b"X\x03\x00\x00\x00cpuK\x06tQ.",
    "arguments": b"\x80\x02ccollections\nCounter\n" + b"]" + DOUBLED + b"a\x85R.",
    "a key again and again": b"\x80\x02}((" + b"N" * 10**4 + b"tq\x01" + b"h\x01N" * 10**5 + b"u.",
}


@pytest.mark.parametrize("program", SHARED.values(), ids=SHARED)
def test_values_that_share_their_parts_are_not_written_out(path: Path, program: bytes) -> None:
    refused(path, with_program(path, program), "holds what no checkpoint holds")


def test_values_that_cannot_be_gone_through_are_refused(path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    doubled: list[Any] = [1]
    for _ in range(60):
        doubled = [doubled, doubled]
    for what in (doubled, endless, {"x": doubled}):
        buffer = io.BytesIO()
        torch.save({"version": 1, "identity": "trial 3", "state": {"kept": what}}, buffer)
        refused(path, checkpoint.sealed(buffer.getvalue()), "holds what no checkpoint holds")


def test_a_packed_file_is_refused(path: Path) -> None:
    program = pickle.dumps({"version": 1, "identity": "trial 3", "state": {}}, protocol=2)
    path.write_bytes(with_program(path, program))
    assert checkpoint.load(path, "trial 3") == {}
    refused(path, with_program(path, program, zipfile.ZIP_DEFLATED), "holds what no checkpoint holds")


def test_what_a_training_shares_is_read(path: Path) -> None:
    shared, long = (0.9, 0.999), [0.5] * 10**5
    kept = {"groups": [{"betas": shared, "other": shared} for _ in range(2000)], "long": [long, long], "set": {1, 2}}
    checkpoint.save(path, "trial 3", kept)
    assert checkpoint.load(path, "trial 3") == kept


def test_a_sound_file_of_something_else_is_refused(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save([1, 2, 3], buffer)
    refused(path, checkpoint.sealed(buffer.getvalue()), "another trial's")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read \(Is a directory\); mend that"):
        checkpoint.load(tmp_path, "trial 3")


def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StantuneError, match=r"trial-000003\.pt cannot be written \(No space left on device\); make room"
    ):
        checkpoint.save(path, "trial 3", {"iteration": 300})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_directories_are_made_and_an_impossible_one_says_so(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a" / "b" / "t.pt", "x", {"iteration": 1})
    assert checkpoint.load(tmp_path / "a" / "b" / "t.pt", "x") == {"iteration": 1}
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StantuneError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "t.pt", "x", {})


@pytest.mark.parametrize(
    "changed",
    [
        {"version": torch.tensor([1.0, 2.0])},
        {"identity": [["a trial"]]},
        {"state": None},
        {"state": [1, 2]},
        {"state": torch.ones(3)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_sound_file_with_something_of_another_kind_is_refused(path: Path, changed: dict[str, Any]) -> None:
    saved = torch.load(path, weights_only=True)
    buffer = io.BytesIO()
    torch.save({**saved, **changed}, buffer)
    path.write_bytes(checkpoint.sealed(buffer.getvalue()))
    with pytest.raises(CheckpointError, match="delete it"):
        checkpoint.load(path, saved["identity"])


def test_a_training_begun_by_an_earlier_version_goes_on_by_what_that_noted_of_code(tmp_path: Path) -> None:
    split = Split(torch.zeros(12, 2), torch.arange(12) % 2)
    problem = Problem("made up", partial(nn.Linear, 2, 2), Dataset("d", split, split), Space({}), Solver(lr=0.1), 6)
    splits = problem.load()

    def trained(stop: int, code: str) -> int:
        made = {"made-of": {"network": code}}
        return run(problem, {}, tmp_path / "c.pt", 0, stop, splits=splits, made=made).iterations

    assert trained(2, "old") == 2
    assert trained(4, Digest("new", "old")) == 4
    assert trained(6, Digest("new", "older")) == 6, "it was saved under what is said of it now"
    with pytest.raises(ForeignCheckpointError):
        trained(6, Digest("newer", "older"))
