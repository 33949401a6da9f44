"""What is taken of an earlier search: its winner first, each setting once."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import stantune as st
from stantune.errors import StanWarning
from stantune.parameters import Categorical, Integer
from stantune.search.plan.values import TrialRow
from stantune.search.propose.warm_start import warm_start
from stantune.space import Space

SPACE = Space({"n": Integer(0, 9)})


def tried_first(rows: list[TrialRow]) -> list[int]:
    start = warm_start("runs/old", "old", rows, SPACE.as_json(), SPACE, 3, 9, {})
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


def test_of_a_large_search_the_best_and_the_newest_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stantune.search.propose.warm_start.MOST", 6)
    monkeypatch.setattr("stantune.search.propose.warm_start.BEST", 2)
    rows = [TrialRow(number, 1, {"n": number}, {9: float(number)}) for number in range(10)]
    start = warm_start("runs/old", "old", rows, SPACE.as_json(), SPACE, 3, 9, {})
    assert [trial.number for trial in start.trials] == [0, 1, 6, 7, 8, 9]


def test_a_space_with_a_condition_on_a_tuple_is_the_same_one() -> None:
    """A table has lists for them."""
    space = Space({"kernel": Categorical(((3, 3), (5, 5))), "pad": Integer(0, 2)}, when={"pad": {"kernel": [(5, 5)]}})
    rows = [TrialRow(0, 1, {"kernel": (5, 5), "pad": 1}, {9: 0.1}), TrialRow(1, 1, {"kernel": (3, 3)}, {9: 0.2})]
    there = json.loads(json.dumps(space.as_json()))
    assert [trial.number for trial in warm_start("runs/old", "old", rows, there, space, 3, 9, {}).best] == [0, 1]


def test_what_is_fixed_otherwise_is_left_out() -> None:
    space = Space({"how": Categorical(("sgd", "adam")), "n": Integer(0, 9)})
    rows = [TrialRow(place, 1, {"how": "sgd", "n": place}, {9: place / 10}) for place in range(5)]
    rows += [TrialRow(place, 1, {"how": "adam", "n": place}, {9: place / 10}) for place in range(5, 9)]
    start = warm_start("runs/old", "old", rows, space.as_json(), space, 3, 9, {"how": "adam"})
    assert [trial.number for trial in start.best] == [5, 6, 7]
    assert [trial.number for trial in start.trials] == [5, 6, 7, 8]
    assert len(warm_start("runs/old", "old", rows[:5], space.as_json(), space, 3, 9, {"how": "adam"}).trials) == 5


@pytest.mark.parametrize(
    ("fixed", "note"),
    [
        ({}, ""),
        ({"n": 3}, ""),
        ({"n": 7}, "has n=7; nothing is taken from it"),
        ({"how": "adam", "n": 3}, "has how='adam' and n=3; nothing is taken from it"),
    ],
)
def test_it_is_said_where_no_setting_has_what_is_fixed(tmp_path: Path, fixed: dict[str, Any], note: str) -> None:
    def train(run: st.Run) -> float:
        return float(run.params["x"])

    space = st.Space({"how": st.Categorical(("sgd", "adam")), "n": st.Integer(0, 9), "x": st.Float(0, 1)})
    settings = [{"how": "sgd", "n": 3, "x": x / 4} for x in range(3)]
    old, new, said = tmp_path / "old", tmp_path / "new", list[str]()
    asked: dict[str, Any] = {"minimize": "loss", "max_resource": 3}
    st.tune(train, space, **asked, trials=3, plan="wide", enqueue=settings, out=old)
    found = st.tune(train, space, **asked, fixed=fixed, start_from=old, out=new, say=said.append)
    line = f"note: no setting of the search in {old} {note}"
    assert [each for each in said if "nothing is taken" in each] == [line] * bool(note)
    assert (found.state.rows[0].started_from is None) is bool(note)
    # By ask and tell there is nobody to say it to.
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with st.open_search(space, **asked, fixed=fixed, start_from=old, out=tmp_path / "asked", name="train"):
            pass
    assert [(str(each.message), each.filename) for each in warned if each.category is StanWarning] == [
        (line.removeprefix("note: "), __file__)
    ] * bool(note)
