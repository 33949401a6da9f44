"""Searches of a function's data: whole numbers are drawn at random, and a search that held out others is not mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from stantune import Conditions, Dataset, Float, Problem, ProblemObjective, Solver, Space, tune
from stantune.compare.comparison import Comparer
from stantune.errors import UsageError
from stantune.images import objective as objectives
from stantune.images.numbers_held_out import NOTE, noted_of

INPUTS = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
WHOLE = np.random.default_rng(1).permutation(2_000)[:120]

pytestmark = pytest.mark.usefixtures("one_thread")


class Counting:
    """Data that count how often they were loaded."""

    def __init__(self, targets: Any) -> None:
        self.targets, self.loaded = targets, 0

    def __call__(self, root: Path | None) -> Dataset:
        self.loaded += 1
        return Dataset("numbers", (INPUTS, self.targets))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the count, which is no part of what they are."""
        return {"targets": self.targets}


def missing(root: Path | None) -> Dataset:
    raise FileNotFoundError("numbers.npy")


def problem(data: Callable[[Path | None], Dataset] | Dataset, **more: Any) -> Problem:
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))

    given = {"loss": "mean squared error", "batch_size": 10, **more}
    space = Space({"lr": Float(1e-9, 1e-8, log=True)})
    return Problem("numbers", network, data, space, Solver(lr=1e-8), 9, **given)


def search(what: Problem, out: Path, **more: Any) -> Any:
    return tune(what, max_resource=9, min_resource=3, stan=None, out=out, **more)


@pytest.mark.parametrize("loss", ["mean squared error", nn.MSELoss()], ids=["by name", "own"])
def test_a_search_from_before_goes_on_unless_its_data_hold_whole_numbers(
    loss: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, floats = (problem(Counting(targets), loss=loss) for targets in (WHOLE, WHOLE.astype(np.float32)))
    with monkeypatch.context() as before:
        before.setattr(objectives, "numbers_held_out", lambda *given: {})
        for name, what in (("whole", whole), ("floats", floats)):
            search(what, tmp_path / name)
    assert NOTE not in search(floats, tmp_path / "floats").objective.identity
    with pytest.raises(UsageError, match=f"{NOTE}: not set there, at random here.*, another place, or `fresh`"):
        search(whole, tmp_path / "whole")
    begun = search(whole, tmp_path / "whole", fresh=True)
    assert begun.objective.identity[NOTE] == "at random"
    assert search(whole, tmp_path / "whole").best == begun.best


def noted(what: Problem, begun: dict[str, Any] | None) -> bool:
    """Tell whether a search elsewhere notes it."""
    before = None if begun is None else {"threads": 1, **begun}
    ready, _ = ProblemObjective(what).prepared(Conditions(max_resource=9, here=False, threads=1, begun=before))
    return NOTE in ready.identity


def test_data_are_loaded_only_to_know_a_search_from_before() -> None:
    data = Counting(WHOLE)
    what = problem(data)
    assert noted(what, None)
    assert noted(what, {NOTE: "at random"})
    assert data.loaded == 0
    assert noted(what, {})
    assert data.loaded == 1
    # Without them nothing can be told, or trained.
    assert not noted(replace(what, data=missing), {})


def test_searches_that_cannot_hold_such_numbers_note_nothing() -> None:
    data = Counting(WHOLE)
    for change in (
        {"hold_out": "random"},
        {"hold_out": "last"},
        {"loss": "cross entropy"},
        {"loss": nn.MSELoss(), "measure": "error"},
        {"data": data(None)},
    ):
        assert not noted(replace(problem(data), **change), None)


def test_trainings_and_comparisons_note_what_was_drawn_of_a_function_s_data() -> None:
    for targets, noted in ((WHOLE, {NOTE: "at random"}), (WHOLE.astype(np.float32), {})):
        what = problem(Counting(targets))
        splits = what.load()
        assert noted_of(splits) == noted
        tested = replace(splits, test=splits.validation)
        identity = Comparer(what, {"lr": 1e-8}, {}, 9, tested)._identity()
        assert {name: value for name, value in identity.items() if name == NOTE} == noted
        # Nothing is held out of them, or what they are is in the identity of the problem.
        assert noted_of(what.load(full=True)) == {}
        assert noted_of(problem(Dataset("numbers", (INPUTS, targets))).load()) == {}
