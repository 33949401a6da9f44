"""A study asked for less, more or other than before: nothing leaves its table, and like stands beside like."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from earlier_code import noted_as_before
from torch import nn

import stantune as st
from stantune.compare.study.contract import StudiedProblem, StudiedSearch, StudySummary
from stantune.compare.study.joining import check_joinable, joined, tell_as_before
from stantune.compare.study.numbers import summary_of, waiting
from stantune.errors import UsageError
from stantune.images import objective
from stantune.search.results.contract import MetricResult
from tests import tiny_problem

# Earlier versions did not see such a statement.
FACTOR, (TERM,) = 2.0, (3.0,)
METRIC = MetricResult(name="error", direction="minimize", unit="")
RUN: dict[str, Any] = {"workers": 1, "threads": None, "device": "cpu", "precision": None}


def problem(name: str = "p", **others: Any) -> StudiedProblem:
    given: dict[str, Any] = {"max_iterations": 9, "min_iterations": 3, "final_iterations": 9, "eta": 3, "brackets": 1}
    given |= {"validation": "all", "finalists": 1, "final": "scratch", "fixed": {}, "predicted": {}, **others}
    return StudiedProblem(name=name, source=None, metric=METRIC, test=None, unit="iteration", **given)


def search(
    name: str, way: str, seed: int, state: Literal["waiting", "done", "interrupted"] = "waiting"
) -> StudiedSearch:
    return waiting(name, way, seed, f"{name}-{way}-seed-{seed}").model_copy(update={"state": state})


def study(problems: list[StudiedProblem], ways: list[str], seeds: list[int], state: Any = "waiting") -> StudySummary:
    cells = [search(one.name, way, seed, state) for seed in seeds for one in problems for way in ways]
    return summary_of(problems, ways, seeds, cells)


def cells(summary: StudySummary) -> list[tuple[str, str, int]]:
    return [(one.problem, one.way, one.seed) for one in summary.searches]


def test_what_was_begun_stays_beside_what_is_asked_for() -> None:
    before = study([problem(predicted={"none": 1.0})], ["none", "stan"], [0, 1], "done")
    both = joined(before, study([problem("q")], ["memo"], [1]))
    assert cells(both) == [("p", "none", 0), ("p", "stan", 0), ("p", "none", 1), ("p", "stan", 1), ("q", "memo", 1)]
    assert (both.ways, both.seeds, both.complete) == (["none", "stan", "memo"], [0, 1], False)
    assert [(one.problem, one.way, one.seeds) for one in both.results] == [
        ("p", "none", 2),
        ("p", "stan", 2),
        ("q", "memo", 0),
    ]
    assert both.problems[0].predicted == {"none": 1.0}


def test_what_was_not_begun_is_not_waited_for() -> None:
    before = study([problem(), problem("q")], ["none", "stan"], [0, 1])
    asked = study([problem()], ["stan"], [0], "done")
    assert joined(before, asked) == asked
    begun = search("p", "none", 1, "interrupted")
    before = summary_of(before.problems, before.ways, before.seeds, [*before.searches[:-1], begun])
    assert cells(joined(before, asked)) == [("p", "stan", 0), ("p", "none", 1)]


@pytest.mark.parametrize(
    ("others", "ways", "words"),
    [
        ({"max_iterations": 27}, ["none"], "max_iterations 9 in place of 27"),
        ({"max_iterations": 27}, ["stan"], "max_iterations 9 in place of 27"),
        ({"fixed": {"lr": 0.1}}, ["stan"], r"fixed {} in place of {'lr': 0.1}"),
        ({"brackets": None, "finalists": 2}, ["stan"], "brackets 1 in place of None, finalists 1 in place of 2"),
        # All of its searches go on so.
        ({"brackets": None, "finalists": 2}, ["none", "stan"], None),
        ({"predicted": {"stan": 2.0}}, ["stan"], None),
    ],
)
def test_only_like_stands_beside_like(others: dict[str, Any], ways: list[str], words: str | None) -> None:
    before = study([problem()], ["none"], [0], "done")
    asked = study([problem(**others)], ways, [0])
    searches = [search("p", way, 0, "done" if way == "none" else "waiting") for way in ways]
    if words is None:
        check_joinable(Path("there"), before, asked.problems, searches)
        return
    with pytest.raises(UsageError, match=f"the study in there has searches of p with {words}, and only like"):
        check_joinable(Path("there"), before, asked.problems, searches)


def test_what_first_versions_did_not_note_differs_in_nothing() -> None:
    unnoted = dict.fromkeys(("eta", "brackets", "validation", "finalists", "final", "fixed"))
    before = study([problem(**unnoted)], ["none"], [0], "done")
    check_joinable(Path("there"), before, [problem(brackets=3)], [search("p", "stan", 0)])
    with pytest.raises(UsageError, match="final_iterations 9 in place of 90"):
        check_joinable(Path("there"), before, [problem(final_iterations=90)], [search("p", "stan", 0)])


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"workers": 2}, "workers 1 in place of 2"),
        ({"threads": 2}, "threads None in place of 2"),
        ({"device": "cuda"}, "device cpu in place of cuda"),
        ({"precision": "bf16"}, "precision None in place of bf16"),
        ({"workers": 2, "threads": "auto"}, "workers 1 in place of 2, threads None in place of auto"),
    ],
)
def test_what_is_compared_was_run_alike(others: dict[str, Any], words: str) -> None:
    now = problem(**{**RUN, **others})

    def asked(there: Any, way: str, state: Any, now: StudiedProblem = now, run: dict[str, Any] = RUN) -> None:
        before = study([problem(**run)], ["none"], [0], there)
        check_joinable(Path("there"), before, [now], [search("p", way, 0, state)])

    # Another way, and one that is gone on with, by itself or for another final training.
    more = now.model_copy(update={"finalists": 2})
    for there, way, state, wanted in (
        ("done", "stan", "waiting", now),
        ("interrupted", "none", "interrupted", now),
        ("done", "none", "done", more),
    ):
        with pytest.raises(UsageError, match=f"the study in there has searches of p with {words}, and only like"):
            asked(there, way, state, wanted)
    # Nothing is trained, nothing was, or nobody knows by what.
    asked("done", "none", "done")
    asked("waiting", "stan", "waiting")
    asked("done", "stan", "waiting", run={})


def test_what_nothing_was_trained_by_is_not_told() -> None:
    before = study([problem(**RUN, predicted={"none": 1.0})], ["none"], [0], "done")
    asked = problem(**{**RUN, "workers": 2, "threads": 1})
    tell_as_before(before, [asked], [search("p", "none", 0, "done")])
    assert asked == before.problems[0]
    begun = problem(**{**RUN, "workers": 2})
    tell_as_before(study([problem(**RUN)], ["none"], [0]), [begun], [search("p", "none", 0)])
    assert begun.workers == 2


@pytest.mark.parametrize(
    ("earlier", "now", "state", "carried"),
    [
        (RUN, RUN, "interrupted", True),
        ({}, RUN, "interrupted", True),
        (RUN, {**RUN, "workers": 2}, "interrupted", True),
        (RUN, {**RUN, "final_iterations": 90, "predicted": {"stan": 3.0}}, "interrupted", True),
        # Of other brackets.
        (RUN, {**RUN, "brackets": None}, "interrupted", False),
        # Nothing was begun: it may be of other numbers, or of another problem.
        (RUN, {**RUN, "precision": "bf16"}, "waiting", False),
        (RUN, RUN, "waiting", False),
    ],
)
def test_what_was_predicted_of_something_else_is_predicted_anew(
    earlier: dict[str, Any], now: dict[str, Any], state: Any, carried: bool
) -> None:
    before = study([problem(**{**earlier, "predicted": {"none": 1.0}})], ["none"], [0], state)
    asked = problem(**now)
    expected = {**asked.predicted, **({"none": 1.0} if carried else {})}
    tell_as_before(before, [asked], [search("p", "none", 0, state)])
    assert asked.predicted == expected


def test_two_searches_never_share_a_folder() -> None:
    before = study([problem("a b")], ["none"], [0], "done")
    same = search("c", "none", 0).model_copy(update={"directory": before.searches[0].directory})
    with pytest.raises(UsageError, match="has another search in a b-none-seed-0, where that of c would be"):
        check_joinable(Path("there"), before, [problem("c")], [same])


def test_names_of_any_length_have_a_folder(tmp_path: Path) -> None:
    from dataclasses import replace

    named = replace(tiny_problem.problem, name="n" * 300)
    found = st.study(named, ways=["none", f"stan@[{'1' * 300}]"], seeds=1, out=tmp_path / "out", budget=1e-9)
    assert {len(one.directory) for one in found.summary.searches} < set(range(255))
    with pytest.raises(UsageError, match="two problems are called tiny and Tiny, and would share the folder"):
        st.study(
            [replace(named, name="Tiny"), replace(named, name="tiny")], ways="none", out=tmp_path / "out", budget=1e-9
        )


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        ("none,stan:0.3", "`ways`=stan:0.3: rate=0.3 has no grid pattern"),
        ("stan@nothing", "`ways`=stan@nothing: layers='nothing' matches no convolution"),
        ("none,", "is no way of training: it is empty"),
        ("native:winograd", "`ways`=native:winograd is no way of training: native is not said so"),
        ("meprop+stan", "meprop is not said so"),
    ],
)
def test_what_cannot_be_is_said_of_its_way(ways: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        st.study(tiny_problem.problem, ways=ways, seeds=1, out=tmp_path / "out", budget=1e-9)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_like_searches_held_out_the_same_numbers(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(120, 3)).astype(np.float32), random.permutation(2_000)[:120].astype(kind)

    def numbers(root: Path | None) -> st.Dataset:
        return st.Dataset("numbers", (inputs, targets))

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))

    space = st.Space({"lr": st.Float(1e-9, 1e-8, log=True)})
    solver = st.Solver(lr=1e-8)
    what = st.Problem("n", network, numbers, space, solver, 9, loss="mean squared error", batch_size=10)
    given: dict[str, Any] = {"seeds": 1, "max_resource": 3, "min_resource": 3, "threads": 1, "out": tmp_path / "out"}
    with monkeypatch.context() as before:
        # Earlier versions held whole numbers out by their size, and noted nothing.
        before.setattr(objective, "numbers_held_out", lambda *given: {})
        assert st.study(what, ways="none", **given).complete
    if kind is np.float32:
        assert st.study(what, ways="native", budget=1e-9, **given).summary.ways == ["none", "native"]
        return
    with pytest.raises(UsageError, match=r"has searches of another n \(numbers-held-out: None there, at random here\)"):
        st.study(what, ways="native", budget=1e-9, **given)


def error_of(run: st.Run) -> float:
    return float(run.params["x"]) * FACTOR + TERM


def another_error_of(run: st.Run) -> float:
    return float(run.params["x"]) * FACTOR - TERM


def test_a_problem_that_an_earlier_version_noted_is_the_same(tmp_path: Path) -> None:
    def studied(function: Any, ways: str, **others: Any) -> StudySummary:
        objective = st.FunctionObjective(
            function, st.Space({"x": st.Float(0, 1)}), st.Metric("error"), name="same", length=3
        )
        return st.study(objective, ways=ways, seeds=1, brackets=1, out=tmp_path / "out", **others).summary

    with noted_as_before():
        studied(error_of, "none")
    with pytest.raises(UsageError, match=r"has searches of another same \(code: \w+ there, \w+ here\)"):
        studied(another_error_of, "native")
    assert studied(error_of, "native", budget=1e-9).ways == ["none", "native"]
