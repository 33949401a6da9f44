"""Who is a finalist: ranks are counted among those that may be."""

from __future__ import annotations

from stantune.outcome import Cost
from stantune.search.plan.finals import finals_of, that_count
from stantune.search.plan.values import Final, FinalResult, TrialRow

# What each trial came to, and where: those of the lower rung have better errors than the second one that got to R.
ROWS = [
    TrialRow(number, 0, {"x": number}, {stop: error})
    for number, (stop, error) in enumerate([(9, 10.0), (3, 11.0), (9, 12.0), (3, 11.5)])
]


def test_of_those_that_go_on_none_of_a_lower_rung_takes_a_place() -> None:
    assert finals_of(ROWS, 3, 9, "continue") == [Final(0, 0, 9, 9), Final(1, 2, 9, 9)]
    assert finals_of(ROWS, 2, 9, "continue") == finals_of(ROWS, 3, 9, "continue")
    assert finals_of(ROWS, 1, 9, "continue") == [Final(0, 0, 9, 9)]
    assert finals_of([ROWS[1], ROWS[3]], 3, 9, "continue") == []


def test_from_scratch_every_setting_may_be_trained() -> None:
    assert finals_of(ROWS, 3, 9) == [Final(0, 0, 9), Final(1, 1, 9), Final(2, 3, 9)]
    assert finals_of(ROWS, 3, 9, "none") == []


def test_results_count_that_are_of_who_has_the_rank() -> None:
    def result(number: int) -> FinalResult:
        return FinalResult({"x": number}, 9, {"error": 4.0}, None, Cost())

    assert sorted(that_count({0: result(0), 1: result(2), 2: result(2)}, ROWS, 9, 3, "continue")) == [0, 1]
    # As an earlier version kept them.
    assert sorted(that_count({0: result(0), 3: result(2)}, ROWS, 9, 4, "continue")) == [0]
    assert sorted(that_count({0: result(0), 3: result(2)}, ROWS, 9, 4)) == [0, 3]
