"""Trainings that take turns in one process: as each alone, bit for bit, through ends and failures of others."""

from __future__ import annotations

import json
import random
import warnings
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corners import CLASSES, DRAWING
from states import equal, what_counts
from torch import Tensor, nn

import stantune as st
import stantune.training.train
from stantune.images.data.splits import Split
from stantune.images.objective import ProblemObjective
from stantune.search.directory.directory import SearchDirectory
from stantune.search.stopping import Stop
from stantune.search.table import studies
from stantune.stan.config import Memo
from stantune.training.trial import Trial

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(BaseException):
    """The end of a process, as far as a search can tell: nothing is written any more."""


def tune(where: Path, **options: Any) -> st.SearchResult:
    settings = {"max_resource": 27, "min_resource": 3, "threads": 1, "retries": 0, "device": "cpu", "out": where}
    return st.tune(DRAWING, **{**settings, **options})


def told(where: Path) -> Any:
    """Return what a search came to, less times: its table, its result, and the weights that it kept."""
    directory = SearchDirectory(where)
    table = studies.table_of(directory.url, directory.study)
    assert table is not None
    result = json.loads((where / "result.json").read_text())
    kept = sorted(path.relative_to(where) for path in where.rglob("*.pt"))
    return (
        [replace(row, costs={}) for row in table[1]],
        {name: value for name, value in result.items() if name not in ("seconds", "saved", "final", "directory")},
        {str(path): what_counts(where / path) for path in kept},
    )


def check_same(one: Any, other: Any) -> None:
    assert one[0] == other[0]
    assert one[1] == other[1]
    assert one[2].keys() == other[2].keys()
    assert [name for name in one[2] if not equal(one[2][name], other[2][name])] == []


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the search comes to with one training at a time."""
    where = tmp_path_factory.mktemp("alone")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tune(where)
    finally:
        torch.set_num_threads(before)
    rows, result, kept = what = told(where)
    assert result["complete"]
    assert sum(row.diverged_at is not None for row in rows) >= 3
    assert sum(row.failed is not None for row in rows) == 1
    assert sum(len(row.errors) > 1 for row in rows) >= 3, "some were promoted"
    assert len(kept) >= 3
    return what


@pytest.mark.parametrize(("together", "block", "pace"), [(2, 1, 1), (3, 5, 2), (3, 16, 4)])
def test_as_each_alone(
    together: int, block: int, pace: int, alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of trainings, of iterations in a turn and of those whose losses are read at a time."""
    of_blocks(monkeypatch, block)
    monkeypatch.setattr("stantune.images.trainer.PACE", pace)
    # What the process has drawn before is nothing to them.
    np.random.seed(together)
    tune(tmp_path, together=together)
    check_same(told(tmp_path), alone)


def test_in_several_processes_too(alone: Any, tmp_path: Path) -> None:
    lines: list[str] = []
    tune(tmp_path, together=2, workers=2, say=lines.append)
    check_same(told(tmp_path), alone)
    assert any(line.startswith("together: 2 trainings in a process, each of which keeps about") for line in lines)


def of_blocks(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(stantune.training.train, "Trial", partial(Trial, block=length))


def test_killed_and_gone_on_with(alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stantune.images.trainer.PACE", 2)
    monkeypatch.setattr(stantune.training.train, "SAVE_SECONDS", 0.0)
    moments, kills = random.Random(1), 0
    real, left = Trial.submit, 0

    def submit(self: Trial, stop: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return real(self, stop)

    monkeypatch.setattr(Trial, "submit", submit)
    while True:
        left = moments.randint(100, 150)
        try:
            tune(tmp_path, together=1 + kills % 3)
            break
        except Killed:
            kills += 1
    assert kills >= 1
    check_same(told(tmp_path), alone)


def test_ended_in_good_order_and_gone_on_with(alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stantune.images.trainer.PACE", 2)
    ends = 0
    while True:
        asked, stop = 0, Stop()

        def ask(asking: Any = stop.asked) -> bool:
            nonlocal asked
            asked += 1
            return asked > 150 or asking()

        monkeypatch.setattr(stop, "asked", ask)
        if tune(tmp_path, together=3, stop=stop).complete:
            break
        ends += 1
    assert ends >= 1
    check_same(told(tmp_path), alone)


def test_copies_of_data_on_another_device_are_one() -> None:
    """Of each training a copy would fill a GPU."""
    split = Split(torch.zeros(3, 4), torch.zeros(3))
    one, other = split.to("meta"), split.to("meta")
    assert one is other
    assert one.inputs.is_meta
    assert split.to("cpu") is split
    del one, other
    assert len(stantune.images.data.splits._COPIES[split]) == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"together": 0}, "`together`=0"),
        ({"together": 2, "trial_memory": "2G"}, "`together`=2 trainings share the memory of a process"),
        ({"together": 2, "executor": lambda order: order(0)}, "take turns in processes of this machine"),
        ({"together": 2, "stan": st.Stan(memo=Memo(96, 10))}, "give each a budget: Memo"),
    ],
    ids=["none", "memory", "executor", "a memory of what is free"],
)
def test_what_does_not_go_together(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(st.UsageError, match=sentence):
        tune(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_functions_take_no_turns(tmp_path: Path) -> None:
    def train(run: st.Run) -> float:
        return 1.0

    space = st.Space({"x": st.Float(0, 1)})
    with pytest.raises(st.UsageError, match=r"`together`=2 is for Problems, .* and train is none; give `workers`"):
        st.tune(train, space, max_resource=3, minimize="loss", together=2, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Slow(nn.Module):
    """Warns in each training step; one without width cannot be trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, input: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            if not self.width:
                raise MemoryError("too large")
            warnings.warn("a slow layer", stacklevel=1)
        return input


def slow(width: int = 0) -> nn.Module:
    """Return a network that can be trained with settings that are searched, and not with the problem's own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES), Slow(width))


@pytest.mark.parametrize("here", [True, False])
def test_what_memory_is_measured_with_is_kept_where_trainings_are(here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, kept = ProblemObjective(DRAWING), []
    data = weakref.ref(objective.splits.train)
    # Also what a GPU has copies of.
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: kept.append(data() is not None))
    assert objective.memory_told(2, "cpu", here).startswith("together: 2 trainings in a process")
    assert ("splits" in vars(objective)) == here
    assert kept[-1] == here


def test_what_the_own_numbers_cannot_do_and_warnings_of_each_step(tmp_path: Path) -> None:
    said, space, out = list[str](), st.Space({"width": st.Integer(1, 12)}), tmp_path / "out"
    problem = replace(DRAWING, name="slow", network=slow, augment=None, space=space, iterations=81)
    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        warnings.simplefilter("default")
        st.tune(problem, max_resource=81, min_resource=27, threads=1, together=3, say=said.append, out=out)
    assert any("could not be measured with the problem's own numbers: " in line for line in said)
    # Where a training begins, as with one at a time, and not in each of its six turns.
    begun = sum(len(row.errors) for row in told(out)[0]) + 1
    assert len([each for each in shown if "a slow layer" in str(each.message)]) < 2 * begun
