"""Where all final trainings that were asked for diverged, the next settings are trained, one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import stantune as st
from stantune.outcome import Cost
from stantune.search.plan.finals import SUBSTITUTES, with_substitutes
from stantune.search.plan.standings import ranking
from stantune.search.plan.values import FinalResult
from stantune.search.table.looking.look import look

SPACE = st.Space({"x": st.Float(0, 1)})
NAN = float("nan")


def lost_below(bound: float) -> Callable[[st.Run], float]:
    """Return a training whose final ones end in no number where x is less; the lower x, the better."""

    def trains(run: st.Run) -> float:
        run.keep(steps=[])
        for _ in run.steps():
            pass
        return NAN if run.final and run.params["x"] < bound else run.params["x"]

    return trains


def searched(out: Path, lost: float, **options: Any) -> st.SearchResult:
    options = {"max_resource": 27, "min_resource": 3, "threads": 1} | options
    return st.tune(lost_below(lost), SPACE, minimize="x", out=out, **options)


def told(found: st.SearchResult) -> Mapping[int, FinalResult]:
    """What the final trainings came to, without what it cost, which is in the files, too."""
    return {rank: replace(final, cost=Cost(), digest=None) for rank, final in found.state.finals.items()}


def ranked(found: st.SearchResult) -> list[float]:
    return [standing.params["x"] for standing in ranking(found.state.rows, found.state.whole)]


@pytest.fixture(scope="module")
def xs(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The settings, from the best."""
    found = searched(tmp_path_factory.mktemp("sound"), 0.0)
    assert sorted(found.state.finals) == [0], "nobody is trained more than asked for where the first one ends well"
    return ranked(found)


def between(xs: list[float], lost: int) -> float:
    """Return a bound below which so many of the settings are, which are those of the lowest ranks."""
    assert xs[: lost + 1] == sorted(xs)[: lost + 1]
    return (xs[lost - 1] + xs[lost]) / 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("finalists", "lost", "trained"), [(1, 1, 2), (1, 2, 3), (2, 1, 2), (2, 2, 3)])
def test_the_next_setting_is_trained_until_one_ends_well(
    tmp_path: Path, xs: list[float], finalists: int, lost: int, trained: int, workers: int
) -> None:
    found = searched(tmp_path, between(xs, lost), finalists=finalists, workers=workers)
    assert (found.complete, sorted(found.state.finals)) == (True, list(range(trained)))
    assert found.state.winner == lost
    assert found.final is not None
    assert (found.final.value, found.final.params) == (xs[lost], {"x": xs[lost]})
    files = [tmp_path / "final.pt", *(tmp_path / f"final-{rank}.pt" for rank in range(2, trained + 1))]
    assert [file.exists() for file in files] == [False] * lost + [True] * (trained - lost)
    assert found.final.weights == files[lost]
    assert [final.status for final in found.finalists] == ["diverged"] * lost + ["finished"] * (trained - lost)
    assert (look(tmp_path).state, look(tmp_path).finals_left) == ("done", 0)
    assert not any("diverged" in note for note in found.summary.notes)


class Finals:
    """A logger that keeps the names of the final trainings."""

    name = "finals"

    def __init__(self) -> None:
        self.names: list[str] = []

    def begin(self, search: Any) -> None:
        pass

    def training(self, training: Any) -> None:
        if training.bracket is None:
            self.names.append(training.name)

    def segment(self, training: Any, segment: Any) -> None:
        pass

    def ended(self, training: Any, how: str) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("finalists", [1, 2, 3])
def test_settings_that_repeat_have_one_final_training_each(tmp_path: Path, finalists: int) -> None:
    worth = {"a": (0.1, 0.1), "b": (0.0, 0.2), "c": (0.3, 0.3)}

    def trains(run: st.Run) -> float:
        run.keep(steps=[])
        done = max(run.steps(), default=0) + 1
        first, later = worth[run.params["kind"]]
        return NAN if run.final and run.params["kind"] != "c" else later if done > 1 else first

    space, finals = st.Space({"kind": st.Categorical(("a", "b", "c"))}), Finals()
    options: dict[str, Any] = {"minimize": "x", "max_resource": 9, "threads": 1, "loggers": [finals]}
    found = st.tune(trains, space, out=tmp_path, finalists=finalists, **options)
    assert len({standing.params["kind"] for standing in ranking(found.state.rows)}) == 3
    assert len(ranking(found.state.rows)) > 3, "some were trained for themselves again"
    assert [final.params["kind"] for final in found.finalists] == ["a", "b", "c"]
    assert found.final is not None
    assert found.final.params == {"kind": "c"}
    assert (found.complete, look(tmp_path).state) == (True, "done")
    assert finals.names == [f"final-of-{final.number:06d}" for final in found.finalists]


def test_it_ends_where_nobody_ends_well(tmp_path: Path) -> None:
    found = searched(tmp_path, 1.0)
    assert (found.complete, sorted(found.state.finals)) == (True, list(range(1 + SUBSTITUTES)))
    assert found.final is not None
    assert (found.final.status, found.final.params["x"]) == ("diverged", ranked(found)[0])
    (note,) = found.summary.notes
    assert note.startswith("every final training diverged, that of the best setting at epoch 27; train more")
    assert look(tmp_path).state == "done"
    assert told(searched(tmp_path, 1.0)) == told(found), "the same call trains nobody once more"


def test_an_end_between_them_changes_nothing(tmp_path: Path, xs: list[float]) -> None:
    lost = between(xs, 2)
    undisturbed = searched(tmp_path / "undisturbed", lost)

    def ends(line: str) -> None:
        if f"final training of trial {undisturbed.finalists[1].number}" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "cut", lost, say=ends)
    seen = look(tmp_path / "cut")
    assert (seen.state, len(seen.finals)) == ("interrupted", 1)
    assert seen.finals_left == 1
    assert told(searched(tmp_path / "cut", lost)) == told(undisturbed)


def test_an_earlier_call_for_more_changes_nothing(tmp_path: Path, xs: list[float]) -> None:
    alone = searched(tmp_path / "alone", between(xs, 1))
    more = searched(tmp_path / "more", between(xs, 1), finalists=4)
    assert sorted(more.state.finals) == [0, 1, 2, 3]
    assert told(searched(tmp_path / "more", between(xs, 1))) == told(alone)


def test_more_brackets_change_who_stands_in(tmp_path: Path) -> None:
    first = searched(tmp_path / "longer", 1.0, brackets=1)
    alone = searched(tmp_path / "alone", 1.0)
    assert ranked(first)[:4] != ranked(alone)[:4]
    longer = searched(tmp_path / "longer", 1.0)
    assert ranked(longer) == ranked(alone)
    assert told(longer) == told(alone)


@pytest.mark.parametrize(
    ("count", "diverged", "wanted"),
    [
        (0, {}, 0),
        (0, {0: True}, 0),
        (1, {}, 1),
        (1, {0: False}, 1),
        (1, {0: True}, 2),
        (1, {1: True}, 1),
        (1, {0: True, 1: True}, 3),
        (1, {0: True, 1: False, 2: True}, 2),
        (1, dict.fromkeys(range(9), True), 1 + SUBSTITUTES),
        (2, {0: True}, 2),
        (2, {0: True, 1: True}, 3),
        (2, {0: True, 1: True, 2: False}, 3),
    ],
)
def test_how_many_there_are_to_be(count: int, diverged: dict[int, bool], wanted: int) -> None:
    results = {rank: FinalResult({}, 9, {}, 9 if lost else None, Cost()) for rank, lost in diverged.items()}
    assert with_substitutes(count, results) == wanted
