"""The real loop where settings repeat, proposals wait for results, and an earlier search is started from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numbers_objective import Numbers

from stantune.errors import UsageError
from stantune.outcome import Cost, Outcome
from stantune.parameters import Categorical, Float, Integer
from stantune.protocols import Segment
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.plan.standings import ranking
from stantune.search.plan.values import setting_key
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.table.start_from import starting_from
from stantune.search.table.store import Store
from stantune.search.workers.executors import InProcess
from stantune.space import Space

SPACE = Space(
    {"kind": Categorical(("a", "b")), "n": Integer(1, 3), "lr": Categorical((0.1, 0.2))}, {"n": {"kind": "b"}}
)
FEW = Numbers(space=SPACE, name="few", length=81)
SETTINGS = SearchSettings(seed=0, max_resource=27, min_resource=3, sampler="tpe", lag=2)


class Counting:
    """Trains nothing, and keeps the segments that it was given; the setting alone decides, and one of them diverges."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    def train(self, segment: Segment, stop_early: Callable[[], bool], watch: Callable[[int], None]) -> Outcome:
        self.segments.append(segment)
        params, stop = segment.params, segment.stop
        if params.get("n") == 3 and params["lr"] == 0.2:
            return Outcome(1, {}, 1, False, Cost())
        error = 50 - 10 * params.get("n", 0) - 20 * params["lr"] - stop / 3
        return Outcome(stop, {"error": error, "other": error}, None, False, Cost(exact=stop, exact_seconds=1.0))


def run(path: Path, settings: SearchSettings = SETTINGS, **options: Any) -> tuple[SearchState, list[Segment]]:
    directory, trainer = SearchDirectory(path), Counting()
    with directory.locked():
        state = search(FEW, settings, directory, InProcess(trainer), **options)
    return state, trainer.segments


def told(state: SearchState) -> list[tuple[Any, ...]]:
    return [(row.params, row.errors, row.diverged_at, row.taken, row.started_from) for row in state.rows]


@pytest.mark.parametrize("sampler", ["random", "tpe", "bohb"])
def test_each_setting_is_trained_once(tmp_path: Path, sampler: str) -> None:
    state, segments = run(tmp_path, replace(SETTINGS, sampler=sampler))
    assert state.complete
    trained = [(tuple(segment.params.items()), segment.stop) for segment in segments if not segment.final]
    assert len(trained) == len(set(trained))
    duplicates = [row for row in state.rows if row.duplicate]
    # Eight settings, seventeen trials; some of those that repeat go further than their first ones, which were dropped.
    assert len(duplicates) >= 5
    identity = replace(SETTINGS, sampler=sampler).identity(FEW)
    with Store.open(SearchDirectory(tmp_path).url, "search", identity, SPACE, FEW.metric) as store:
        assert store.rows() == state.rows


def test_cut_at_any_task_and_gone_on_with(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole")
    left = runs = 0

    def stop_early() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    complete = False
    while not complete:
        left, runs = 2, runs + 1
        state, _ = run(tmp_path / "cut", stop_early=stop_early)
        complete = state.complete
    assert runs > 5
    assert told(state) == told(whole)


def started(
    path: Path, settings: SearchSettings, space: Space = SPACE, name: str = "few", old: Path | None = None
) -> SearchSettings:
    numbers = replace(FEW, space=space, name=name)
    return starting_from(settings, numbers, SearchDirectory(path), SearchDirectory.begun(old or path.parent / "old"))


@pytest.mark.parametrize("sampler", ["random", "tpe", "bohb"])
def test_started_from_an_earlier_search(tmp_path: Path, sampler: str) -> None:
    old, _ = run(tmp_path / "old", replace(SETTINGS, max_resource=9, seed=4))
    settings = started(tmp_path / "new", replace(SETTINGS, sampler=sampler))
    assert settings.start is not None
    assert len(settings.start.trials) == len(old.rows)
    new, _ = run(tmp_path / "new", settings)
    ranked = ranking(old.rows, old.whole)
    best = [standing.number for standing in ranked[:3]]
    assert len({setting_key(standing.params) for standing in ranked[:3]}) == 3
    assert [row.started_from for row in new.rows[:4]] == [*best, None]
    assert [row.params for row in new.rows[:3]] == [old.rows[number].params for number in best]
    alone, _ = run(tmp_path / "alone", replace(SETTINGS, sampler=sampler))
    later = [row.params for row in new.rows[3:]], [row.params for row in alone.rows[3:]]
    assert (later[0] == later[1]) == (sampler == "random"), "models have learned from the start"
    # What was taken is the search's own from then on: the earlier one may go on or be gone.
    for file in (tmp_path / "old").iterdir():
        file.unlink() if file.is_file() else None
    again = started(tmp_path / "new", replace(SETTINGS, sampler=sampler))
    assert again == settings
    state, segments = run(tmp_path / "new", again)
    assert segments == []
    assert told(state) == told(new)


def test_a_search_knows_what_it_was_started_from(tmp_path: Path) -> None:
    run(tmp_path / "old", replace(SETTINGS, max_resource=9))
    run(tmp_path / "other", replace(SETTINGS, max_resource=9, seed=1))
    run(tmp_path / "new", started(tmp_path / "new", SETTINGS), stop_early=lambda: True)
    other = started(tmp_path / "new", SETTINGS, old=tmp_path / "other")
    with pytest.raises(UsageError, match=r"start-from: few with seed 0 \(\w+\) there, few with seed 1 \(\w+\) here"):
        run(tmp_path / "new", other)
    with pytest.raises(UsageError, match=r"start-from: few with seed 0 \(\w+\) there, not set here"):
        run(tmp_path / "new")
    # Moved, it is the same search still.
    (tmp_path / "old").rename(tmp_path / "moved")
    assert started(tmp_path / "new", SETTINGS, old=tmp_path / "moved") == started(tmp_path / "new", SETTINGS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "many"}, "that is a search of few, and this one is of many"),
        ({"space": Space({**SPACE, "momentum": Float(0, 1)}, {"n": {"kind": "b"}})}, r"\(it has no momentum\)"),
        ({"space": Space({"kind": SPACE["kind"], "lr": SPACE["lr"]})}, r"\(it has n, which this one lacks\)"),
        (
            {"space": Space({**SPACE, "n": Float(1, 3)}, {"n": {"kind": "b"}})},
            r"\(n is of kind integer there and float",
        ),
        ({"space": Space({**SPACE})}, r"\(n exists under other conditions there\)"),
        (
            {"space": Space({**SPACE, "lr": Categorical((0.5,))}, {"n": {"kind": "b"}})},
            "no result of a setting that lies",
        ),
    ],
)
def test_what_cannot_be_started_from(tmp_path: Path, change: Mapping[str, Any], words: str) -> None:
    run(tmp_path / "old", replace(SETTINGS, max_resource=9))
    with pytest.raises(UsageError, match=words) as error:
        started(tmp_path / "new", SETTINGS, **change)
    assert "\n" not in str(error.value)


def test_settings_outside_of_a_narrower_space_are_left_out(tmp_path: Path) -> None:
    old, _ = run(tmp_path / "old", replace(SETTINGS, max_resource=9))
    space = Space({**SPACE, "lr": Categorical((0.1,))}, {"n": {"kind": "b"}})
    start = started(tmp_path / "new", SETTINGS, space).start
    assert start is not None
    assert [trial.number for trial in start.trials] == [row.number for row in old.rows if row.params["lr"] == 0.1]


def test_no_search_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no search; give the directory of one"):
        started(tmp_path / "new", SETTINGS)
    assert not (tmp_path / "old").exists()
    with pytest.raises(UsageError, match="is this search's own directory"):
        started(tmp_path / "old", SETTINGS)
