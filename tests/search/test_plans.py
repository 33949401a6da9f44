"""The loop under plans other than Hyperband's: one result for any workers, order and kills; what may be asked for."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from numbers_objective import Numbers

from stantune.errors import StoreError, UsageError
from stantune.outcome import Cost, Outcome
from stantune.parameters import Categorical, Float
from stantune.search.directory.directory import SearchDirectory
from stantune.search.estimate import seconds_of
from stantune.search.loop import search
from stantune.search.operating.status import status_of
from stantune.search.plan.hyperband import plan, trained_iterations
from stantune.search.plan.measured import OpenBracket, costliest
from stantune.search.plan.values import training_of
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.table.looking.look import look
from stantune.search.table.looking.recorded import settings_of
from stantune.search.telling.progress import iterations_left
from stantune.search.workers.executors import Ended
from stantune.space import Space

SPACE = Space({"lr": Float(1e-4, 1.0, log=True), "momentum": Float(0.0, 1.0)})
FEW = Space({"lr": Categorical((0.1, 0.2, 0.3, 0.4, 0.5, 0.6))})
MEASURED = SearchSettings(seed=0, max_resource=27, min_resource=1, plan_name="measured")
WIDE = SearchSettings(seed=0, max_resource=27, min_resource=3, plan_name="wide")
OBJECTIVE = Numbers(length=81)


def told(state: SearchState) -> list[Any]:
    return [(row.params, row.bracket, row.errors, row.diverged_at, row.taken) for row in state.rows] + [
        state.final and (state.final.params, state.final.metrics)
    ]


class Turned:
    """Trains nothing; after one iteration the order is the contrary of what it is later."""

    def __init__(self, capacity: int, order: int) -> None:
        self.capacity, self.trained = capacity, list[Any]()
        self._dice, self._segments = random.Random(order), list[Any]()

    def submit(self, segment: Any) -> None:
        self._segments.append(segment)

    def finished(self, stop_early: Any, watch: Any) -> list[Ended]:
        segment = self._segments.pop(self._dice.randrange(len(self._segments)))
        if stop_early():
            return [Ended(segment, Outcome(0, {}, None, True, Cost()))]
        if not segment.final:
            self.trained.append(training_of(segment))
            segment.checkpoint.parent.mkdir(exist_ok=True)
            segment.checkpoint.touch()
        watch(segment, segment.start + 1)
        lr = segment.params["lr"]
        error = 50 * (1 - lr if segment.stop == 1 else lr) + 10 / segment.stop
        return [Ended(segment, Outcome(segment.stop, {"error": error}, None, False, Cost()))]


def run(place: Path, space: Space, settings: SearchSettings, workers: int, order: int, **options: Any) -> Any:
    directory, executor = SearchDirectory(place), Turned(workers, order)
    with directory.locked():
        state = search(replace(OBJECTIVE, space=space), settings, directory, executor, **options)
    return state, executor


@pytest.mark.parametrize(
    ("settings", "space"),
    [
        (MEASURED, SPACE),
        (replace(MEASURED, sampler="tpe", lag=4), SPACE),
        (replace(MEASURED, brackets=2), FEW),
        (replace(WIDE, sampler="bohb", lag=4), SPACE),
    ],
    ids=["measured", "measured with a model", "measured with equal settings", "wide"],
)
def test_any_number_of_workers_any_order_and_any_kill(tmp_path: Path, settings: SearchSettings, space: Space) -> None:
    alone, executor = run(tmp_path / "alone", space, settings, 1, 0)
    assert alone.complete
    assert len(executor.trained) == len(set(executor.trained)), "nothing is trained twice"
    assert not any(isinstance(bracket, OpenBracket) for bracket in alone.plan)
    assert len(alone.rows) == sum(bracket.rungs[0].trials for bracket in alone.plan)
    if settings.plan_name == "measured":
        assert [bracket.s for bracket in alone.plan][:2] == [3, 2], "one iteration orders them the wrong way"
    # A look at it finds the same plan.
    seen = look(tmp_path / "alone")
    assert (seen.plan, seen.state) == (alone.plan, "done")
    assert [sum(rung.done for rung in bracket.rungs) for bracket in status_of(seen).brackets] == [
        sum(rung.trials for rung in bracket.rungs) for bracket in alone.plan
    ]
    assert settings_of(seen.identity).plan() == settings.plan()
    assert iterations_left(settings.plan(), alone.rows) == 0
    state, _ = run(tmp_path / "by 5", space, settings, 5, 5)
    assert told(state) == told(alone)
    asked = 0

    def stop_early() -> bool:
        nonlocal asked
        asked += 1
        return asked % (12 if space is FEW else 24) == 0

    times = 0
    while not (stopped := run(tmp_path / "stopped", space, settings, 3, times, stop_early=stop_early)[0]).complete:
        times += 1
    assert times > 1
    assert told(stopped) == told(alone)


def test_more_measured_brackets_go_on_with_the_same_table(tmp_path: Path) -> None:
    settings = SearchSettings(seed=0, max_resource=27, min_resource=3, plan_name="measured", brackets=1)
    few, _ = run(tmp_path / "one", SPACE, settings, 1, 0)
    more, executor = run(tmp_path / "one", SPACE, replace(settings, brackets=2), 1, 0)
    assert told(more)[: len(few.rows)] == told(few)[:-1]
    assert {job.number for job in executor.trained} == set(range(len(few.rows), len(more.rows)))
    with pytest.raises(UsageError, match=r"is that of another search \(brackets: 2 there, 1 here"):
        run(tmp_path / "one", SPACE, settings, 1, 0)


def test_a_table_with_another_bracket_than_is_chosen_is_damaged(tmp_path: Path) -> None:
    settings = SearchSettings(seed=0, max_resource=27, min_resource=3, plan_name="measured", brackets=2)
    state, _ = run(tmp_path, SPACE, settings, 1, 0)
    number, chosen = state.plan[0].rungs[0].trials, state.plan[1].s
    with sqlite3.connect(tmp_path / "search.db") as database:
        changed = database.execute(
            "update trial_user_attributes set value_json = ? where key = 'stantune:bracket' and trial_id = ?",
            (str((chosen + 1) % 3), number + 1),
        ).rowcount
    assert changed == 1
    with pytest.raises(
        StoreError, match=f"stantune:bracket of trial {number} is .*, and it begins in bracket {chosen}"
    ):
        look(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"plan_name": "narrow"}, "`plan`=narrow is unknown; give hyperband, wide or measured"),
        (
            {"plan_name": "measured", "mode": "async"},
            "`plan`=measured is for `mode`=sync, and `mode`=async has one wide",
        ),
        ({"plan_name": "measured", "trials": 30}, "`trials`=30 is for `mode`=async and `plan`=wide"),
        ({"plan_name": "measured", "brackets": 0}, "`brackets`=0 leaves none; give 1 or more"),
        ({"plan_name": "measured", "brackets": 10**6}, "give fewer `brackets`"),
        ({"brackets": 2}, "`brackets`=2 is for Hyperband, and `plan`=wide has one bracket"),
        ({"variant": "table1"}, "`variant`=table1 rounds the numbers of Hyperband's trials; with `plan`=wide"),
        ({"trials": 8}, "`trials`=8 is too few: one of 9 gets to 27 iterations"),
        ({"trials": 10**7}, "give fewer `trials`"),
    ],
)
def test_settings_that_cannot_be_had(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        replace(WIDE, **changes).check(OBJECTIVE)


def test_an_identity_names_the_plan_and_hyperband_s_is_as_it_was() -> None:
    hyperband = replace(WIDE, plan_name="hyperband")
    assert "search-plan" not in hyperband.identity(OBJECTIVE)
    assert hyperband.plan() == plan(27, 3, 3)
    wide, measured = WIDE.identity(OBJECTIVE), replace(WIDE, plan_name="measured").identity(OBJECTIVE)
    assert (wide["search-plan"], wide["trials"]) == ("wide", 18)
    assert (measured["search-plan"], measured["brackets"]) == ("measured", 2)


def test_enqueued_settings_have_a_place_whatever_is_chosen() -> None:
    # At least 27 trials, and 4 of the bracket that has the fewest.
    settings = replace(MEASURED, enqueue=tuple({"lr": 0.5, "momentum": 0.5} for _ in range(32)))
    with pytest.raises(UsageError, match="`enqueue` has 32 settings, but the search tries 31 or more; leave some out"):
        settings.check(Numbers())
    replace(settings, enqueue=settings.enqueue[1:]).check(Numbers())


def test_the_time_of_what_is_still_to_be_chosen_is_the_longest_that_it_may_take() -> None:
    run = MEASURED.plan()

    def training(start: int, stop: int) -> float:
        return float(stop - start)

    assert seconds_of(run, training, lambda _: 0.0, 1) == trained_iterations(costliest(run)).continued


@pytest.mark.parametrize("sampler", ["random", "bohb"])
def test_whenever_all_is_killed(played: ModuleType, sampler: str) -> None:
    settings = SearchSettings(seed=3, max_resource=27, min_resource=1, plan_name="measured", sampler=sampler, lag=4)
    alone = played.play(SPACE, settings)
    assert len(alone.trained) == len(set(alone.trained))
    killed = played.play(SPACE, settings, workers=3, order=1, kill=0.2)
    assert killed.rows == alone.rows
