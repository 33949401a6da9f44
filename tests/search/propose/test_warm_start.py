"""What is taken of an earlier search: its winner first, each setting once."""

from __future__ import annotations

from stantune.parameters import Integer
from stantune.search.plan.values import TrialRow
from stantune.search.propose.warm_start import warm_start
from stantune.space import Space

SPACE = Space({"n": Integer(0, 9)})


def tried_first(rows: list[TrialRow]) -> list[int]:
    start = warm_start("runs/old", "old", rows, SPACE.as_json(), SPACE, 3, 9)
    assert [trial.number for trial in start.trials] == [row.number for row in rows]
    return [trial.number for trial in start.best]


def test_the_winner_is_tried_first_though_its_error_has_risen_late() -> None:
    rows = [
        TrialRow(0, 1, {"n": 0}, {3: 0.31}),
        TrialRow(1, 1, {"n": 1}, {3: 0.32}),
        TrialRow(2, 1, {"n": 2}, {3: 0.33}),
        TrialRow(3, 1, {"n": 3}, {3: 0.30, 9: 0.40}),
    ]
    assert tried_first(rows) == [3, 0, 1]


def test_a_setting_that_several_trials_had_is_tried_once_as_the_one_that_came_furthest() -> None:
    rows = [
        TrialRow(0, 2, {"n": 0}, {1: 0.1}),
        TrialRow(1, 2, {"n": 1}, {1: 0.5, 3: 0.3, 9: 0.2}),
        TrialRow(2, 2, {"n": 2}, {1: 0.4}),
        TrialRow(3, 1, {"n": 0}, {3: 0.3}, equals=(0,)),
    ]
    assert tried_first(rows) == [1, 3, 2]
