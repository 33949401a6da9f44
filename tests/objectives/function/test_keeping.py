"""What a function can keep: put back in its place, bit for bit; what cannot be kept is refused in a sentence."""

from __future__ import annotations

import datetime
import errno
import random
from collections import Counter, OrderedDict
from enum import Enum

import numpy as np
import pytest
import torch
from broken_folders import broken_at
from torch import nn

from stantune.errors import CheckpointError, StantuneError, UsageError
from stantune.objectives.function import folder
from stantune.objectives.values import plain, restored
from stantune.training import checkpoint as checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")


class Colour(Enum):
    RED = 1


class Evil:
    """Would run code where it is unpickled by pickle."""

    def __reduce__(self):
        return print, ("executed",)


class Own(torch.Tensor):
    """A class that nobody else knows."""


VALUES = [
    None,
    True,
    3,
    2**130,
    0.1,
    float("inf"),
    1 + 2j,
    "text",
    b"bytes",
    (1, (2, "3")),
    [1, [2.0]],
    {1, 2},
    {"a": {"b": [1]}, 3: None, (1, 2): 4},
    OrderedDict(b=1, a=2),
    Counter({5: 2}),
    torch.Size([2, 3]),
    torch.float16,
    torch.device("cpu"),
    np.float32(0.1),
    np.int64(-3),
    np.bool_(True),
    {np.int64(3): [np.float32(0.5)], (1, (np.int8(2), "a")): {np.int64(0): 1}, 4: None},
    OrderedDict({np.int64(3): 1, "a": 2}),
    Counter({np.int64(3): 2, 5: 1}),
    {np.int64(3), 4, ("a", np.float32(0.1))},
]


def kinds(value):
    """Return a value's kind and those of its parts; keys and elements are equal where their kinds are not."""
    if isinstance(value, dict):
        return type(value), [(kinds(key), kinds(each)) for key, each in value.items()]
    parts = sorted(map(str, map(kinds, value))) if isinstance(value, set | tuple | list) else None
    return type(value), parts


@pytest.mark.parametrize("value", VALUES)
def test_values_come_back_as_they_were(tmp_path, value):
    checkpoints.save(tmp_path / "c.pt", "", {"value": plain(value, "it")})
    state = checkpoints.load(tmp_path / "c.pt", "")
    assert state is not None
    found = restored(state["value"])
    assert kinds(found) == kinds(value)
    assert found == value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.uint32).reshape(2, 3),
        np.ones((2, 2), np.float64).T[::-1],
        np.array(3, np.int16),
        np.array(2**64 - 1, np.uint64),
        np.zeros((0, 2), np.complex64),
        np.array([True, False]),
    ],
)
def test_arrays_come_back_as_they_were(tmp_path, array):
    checkpoints.save(tmp_path / "c.pt", "", {"value": plain([array], "it")})
    state = checkpoints.load(tmp_path / "c.pt", "")
    assert state is not None
    (found,) = restored(state["value"])
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (Evil(), "it is of the kind Evil, which a checkpoint cannot hold: to read it back would execute code; keep"),
        ({"a": [1, Evil()]}, r"it\['a'\]\[1\] is of the kind Evil"),
        ({"a": Colour.RED}, r"it\['a'\] is of the kind Colour"),
        ({Colour.RED: 1}, "a key of it is of the kind Colour"),
        (datetime.datetime(2024, 1, 1), "of the kind datetime"),
        (lambda: 1, "of the kind function"),
        (np.array(["a"]), "of the kind array of <U1"),
        (np.array([Evil()]), "of the kind array of object"),
        ({"stantune kind": 1}, "it has the key 'stantune kind', which checkpoints need themselves; rename it"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_refused(value, sentence):
    with pytest.raises(UsageError, match=sentence):
        plain(value, "it")


def things():
    return {
        "linear": nn.Linear(3, 2),
        "norm": nn.BatchNorm1d(3),
        "generator": torch.Generator(),
        "numpy": np.random.default_rng(0),
        "old_numpy": np.random.RandomState(0),
        "python": random.Random(0),
        "tensor": torch.zeros(2),
        "array": np.zeros(2),
        "values": [1, {"a": (2, 3)}],
        "table": {"old": 0},
        "scaler": torch.amp.GradScaler("cpu"),
    }


def stir(kept):
    """Change each of the things."""
    with torch.no_grad():
        kept["linear"].weight.add_(1)
    kept["norm"](torch.randn(5, 3))
    for generator in (kept["numpy"], kept["old_numpy"], kept["python"]):
        generator.random()
    torch.rand(1, generator=kept["generator"])
    kept["tensor"] += 1
    kept["array"] += 1
    kept["values"].append(len(kept["values"]))
    kept["table"].update(new=[0.5], best=kept["linear"].state_dict()["weight"].clone())


def seen(kept):
    """Return what shows how they are."""
    return repr(
        [
            kept["linear"].weight.tolist(),
            kept["norm"].running_mean.tolist(),
            kept["norm"].num_batches_tracked.item(),
            torch.rand(1, generator=kept["generator"]).item(),
            kept["numpy"].random(),
            kept["old_numpy"].random(),
            kept["python"].random(),
            kept["tensor"].tolist(),
            kept["array"].tolist(),
            kept["values"],
            {name: torch.as_tensor(value).tolist() for name, value in kept["table"].items()},
        ]
    )


def test_all_kinds_of_things_are_put_back_where_they_are(trained):
    states = []

    def train(run):
        kept = things()
        run.keep(**kept)
        for _ in run.steps():
            stir(kept)
        states.append(seen(kept))
        return 1.0

    trained(train, 0, 4)
    trained.checkpoint.unlink()
    for start, stop in ((0, 1), (1, 3), (3, 4)):
        trained(train, start, stop)
    assert states[3] == states[0]
    assert len(set(states)) == 3


def test_what_is_kept_is_put_back_at_once(trained):
    def train(run):
        best = [0.0]
        run.keep(best=best)
        assert best == [float(run.start)]
        model = nn.Linear(1, 1, bias=False)
        run.keep(model=model)
        assert (model.weight.item() == run.start) == (run.start > 0)
        for step in run.steps():
            best[0] = step + 1.0
            nn.init.constant_(model.weight, step + 1.0)
        return 1.0

    trained(train, 0, 2)
    trained(train, 2, 5)


def test_tied_weights_are_kept_once(trained):
    def train(run):
        model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300))
        model[1].weight = model[0].weight
        run.keep(model=model)
        list(run.steps())
        return 1.0

    trained(train)
    assert trained.checkpoint.stat().st_size < 2 * 300 * 300 * 4


@pytest.mark.parametrize(
    ("thing", "sentence"),
    [
        (0.5, "what is kept as 'it' is a float, which cannot be put back in its place; keep what has state_dict"),
        ((1, 2), "is a tuple, which cannot be put back"),
        (None, "is a NoneType, which cannot"),
        (random.SystemRandom(), "is a SystemRandom, which cannot"),
        ([Evil()], r"what is kept as 'it'\[0\] is of the kind Evil, which a checkpoint cannot hold"),
        (torch.zeros(2).as_subclass(Own), "what is kept as 'it' is of the kind Own, which a checkpoint cannot hold"),
        ([torch.zeros(2).as_subclass(Own)], r"'it'\[0\] is of the kind Own, which a checkpoint cannot hold"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(trained, thing, sentence):
    after = []

    def train(run):
        run.keep(it=thing)
        after.append(True)

    with pytest.raises(UsageError, match=sentence):
        trained(train)
    assert after == []


def test_what_cannot_be_kept_any_more_is_refused_when_it_is_saved(trained):
    def train(run):
        table = {}
        run.keep(table=table)
        for _ in run.steps():
            table["when"] = datetime.datetime(2024, 1, 1)
        return 1.0

    with pytest.raises(UsageError, match=r"what is kept as 'table'\['when'\] is of the kind datetime"):
        trained(train)
    assert not trained.checkpoint.exists()


def test_a_name_is_for_one_thing(trained):
    def train(run):
        run.keep(a=[0])
        run.keep(a=[1])

    with pytest.raises(UsageError, match=r"something is kept as 'a' already; call run.keep with another name"):
        trained(train)


def test_nothing_is_kept_once_the_steps_have_begun(trained):
    def train(run):
        for _ in run.steps():
            run.keep(a=[0])

    with pytest.raises(UsageError, match=r"a cannot be kept any more: the steps have begun.*; call run.keep before"):
        trained(train)


def keeps(**kept):
    def train(run):
        run.keep(**kept)
        list(run.steps())
        return 1.0

    return train


@pytest.mark.parametrize(
    ("later", "sentence"),
    [
        ({"a": [0], "b": [0]}, "has nothing called 'b'; call run.keep as it was when the file was written, or delete"),
        ({}, "holds a, and here nobody has called run.keep for that"),
        ({"a": {}}, "has another 'a' than the one that is kept now"),
        ({"a": nn.Linear(2, 2)}, "has another 'a' than the one that is kept now"),
        ({"a": torch.zeros(3)}, "has another 'a' than the one that is kept now"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(trained, later, sentence):
    trained(keeps(a=[0]), 0, 2)
    with pytest.raises(CheckpointError, match=sentence):
        trained(keeps(**later), 2, 4)


def test_another_network_is_refused(trained):
    trained(keeps(model=nn.Linear(2, 2)), 0, 2)
    with pytest.raises(
        CheckpointError, match=r"has another 'model' than the one that is kept now \(Error\(s\) in loading"
    ):
        trained(keeps(model=nn.Linear(2, 3)), 2, 4)
    trained.checkpoint.unlink()
    trained(keeps(t=torch.zeros(2)), 0, 2)
    with pytest.raises(CheckpointError, match=r"\(\(2,\) torch.float32, not \(3,\) torch.float32\)"):
        trained(keeps(t=torch.zeros(3)), 2, 4)


def test_a_checkpoint_that_would_execute_code_does_not(trained, capsys):
    trained(keeps(a=[0]), 0, 2)
    saved = torch.load(trained.checkpoint, weights_only=True)
    saved["state"]["kept"]["a"] = [Evil()]
    checkpoints.save(trained.checkpoint, saved["identity"], saved["state"])
    with pytest.raises(CheckpointError, match="holds what no checkpoint holds"):
        trained(keeps(a=[0]), 2, 4)
    assert "executed" not in capsys.readouterr().out


def test_a_checkpoints_weights_are_there_for_plain_pytorch(trained):
    model = nn.Linear(2, 2)
    trained(keeps(model=model), final=True)
    state = torch.load(trained.where / "final.pt", weights_only=True)["state"]["kept"]["model"]
    other = nn.Linear(2, 2)
    other.load_state_dict(state)
    assert torch.equal(other.weight, model.weight)


def test_files_that_lead_out_of_their_folder_are_refused(tmp_path):
    content = torch.zeros(3, dtype=torch.uint8)
    for name in ("../a", "/a", "b/../../a", ""):
        with pytest.raises(CheckpointError, match="not inside of its folder"):
            folder.unpack({name: content}, tmp_path / "folder")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_files_come_back(tmp_path):
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "one" / "deep" / "empty").touch()
    (tmp_path / "one" / "a b").write_bytes(bytes(range(256)))
    (tmp_path / "one" / "link").symlink_to("a b")
    files = folder.packed(tmp_path / "one")
    assert list(files) == ["a b", "deep/empty", "link"]
    folder.unpack(files, tmp_path / "other")
    assert (tmp_path / "other" / "a b").read_bytes() == bytes(range(256))
    assert (tmp_path / "other" / "deep" / "empty").read_bytes() == b""


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_files_that_cannot_be_looked_for_are_not_left_out(tmp_path, monkeypatch, number):
    """They would be gone with the next segment."""
    (tmp_path / "shard").mkdir()
    (tmp_path / "shard" / "weights").touch()
    (tmp_path / "step").touch()
    assert list(folder.packed(tmp_path)) == ["shard/weights", "step"]
    broken_at(monkeypatch, tmp_path / "shard", number)
    with pytest.raises(StantuneError, match=r"/shard cannot be read into the checkpoint \(.*\); mend that, and give"):
        folder.packed(tmp_path)


@pytest.mark.parametrize("leads", ["to a folder", "to nothing"])
def test_what_would_be_left_behind_is_refused(trained, leads):
    def train(run):
        (run.checkpoint_dir / "step-100").mkdir()
        (run.checkpoint_dir / "step-100" / "state").touch()
        (run.checkpoint_dir / "latest").symlink_to("step-100" if leads == "to a folder" else "nowhere")
        return 1.0

    with pytest.raises(UsageError, match=r"^latest in run\.checkpoint_dir is a link to \w.*, and only files are kept"):
        trained(train)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StantuneError, match=r"cannot be written .*; make room, then give the same command again"):
        folder.unpack({}, tmp_path / "file" / "folder")
