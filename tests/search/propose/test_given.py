"""What is enqueued, fixed or started from: tried first, in every setting, and refused where it does not fit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numbers_objective import Numbers
from proposing import MODELS, SPACE, Told, searched, start_of

from stantune.errors import UsageError
from stantune.search.plan.values import PastTrial, WarmStart
from stantune.search.propose.proposals import Proposals
from stantune.search.propose.sampling import sample
from stantune.search.settings import SearchSettings

FIRST = {"lr": 0.5, "width": np.int64(3), "kind": "plain"}
SECOND = {"kind": "deep", "depth": 4, "lr": 1e-4, "width": 64}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_what_is_enqueued_is_tried_first_then_an_earlier_search_s_best(sampler: str) -> None:
    _, past = searched(SearchSettings(0, 27, 1, lag=3), SPACE)
    start = start_of(past)
    search = SearchSettings(1, 27, 1, sampler=sampler, lag=3, start=start, enqueue=(FIRST, SECOND))
    rows, _ = searched(search, SPACE)
    assert [row.params for row in rows[:5]] == [FIRST, SECOND, *(trial.params for trial in start.best)]
    assert type(rows[0].params["width"]) is int
    assert list(rows[1].params) == ["lr", "width", "kind", "depth"]
    assert [row.started_from for row in rows[:6]] == [None, None, *(trial.number for trial in start.best), None]
    if sampler == "random":
        assert rows[5].params == sample(SPACE, 1, 5)


@pytest.mark.parametrize(
    ("enqueue", "fixed", "words"),
    [
        ([FIRST, {**FIRST, "lr": 7}], {}, "^setting 1 of `enqueue`: lr is 7, .* the nearest valid value is 1$"),
        ([{**FIRST, "lrr": 7}], {}, "^setting 0 of `enqueue`: there is no parameter 'lrr': .* the nearest is lr$"),
        ([{"lr": 0.1}], {}, "^setting 0 of `enqueue`: the setting lacks width, kind: give"),
        ([{**FIRST, "depth": 3}], {}, "^setting 0 of `enqueue`: depth exists only where kind is deep"),
        ([3], {}, "^setting 0 of `enqueue`: it is 3; give a dict"),
        ([FIRST], {"lr": 0.1}, "^setting 0 of `enqueue`: lr is 0.5, but it is fixed; give 0.1, or leave it out$"),
        ([], {"lr": 7}, "^`fixed`: lr is 7, outside its range .* the nearest valid value is 1$"),
        ([], {"width": 6.6}, "^`fixed`: width is 6.6, but it is a whole number .* the nearest valid value is 7$"),
        ([], {"widht": 6}, "^`fixed`: there is no parameter 'widht': .* the nearest is width$"),
        (
            [],
            {"kind": "plain", "depth": 6},
            "^`fixed`: depth is fixed, but exists only where kind is deep, .* leave depth out$",
        ),
    ],
)
def test_what_is_given_badly(enqueue: Any, fixed: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Proposals(SPACE, SearchSettings(0, 27, 1, enqueue=tuple(enqueue), fixed=fixed))


def test_more_settings_than_are_tried_are_refused() -> None:
    SearchSettings(0, 27, 1, enqueue=(FIRST,) * 49).check(Numbers())
    with pytest.raises(UsageError, match=r"^`enqueue` has 50 settings, but the search tries 49; leave some out$"):
        SearchSettings(0, 27, 1, enqueue=(FIRST,) * 50).check(Numbers())


@pytest.mark.parametrize("sampler", ["random", *MODELS, "own"])
@pytest.mark.parametrize(
    ("fixed", "enqueued"),
    [
        ({"lr": np.float64(0.01)}, {"width": 7, "kind": "plain"}),
        ({"kind": "deep"}, {"lr": 0.5, "width": 3, "depth": 2}),
        ({"kind": "plain"}, {"lr": 0.5, "width": 3, "kind": "plain"}),
        ({"depth": 5, "width": 7}, {"lr": 0.5, "kind": "plain"}),
        ({"depth": 5, "width": 7}, {"lr": 0.5, "kind": "deep", "depth": 5}),
    ],
)
def test_what_is_fixed_is_in_every_setting_where_it_exists(
    sampler: str, fixed: dict[str, Any], enqueued: dict[str, Any]
) -> None:
    _, past = searched(SearchSettings(0, 27, 1, lag=3), SPACE)
    told = Told()
    proposing = told if sampler == "own" else sampler
    search = SearchSettings(1, 27, 1, sampler=proposing, lag=3, fixed=fixed, start=start_of(past), enqueue=(enqueued,))
    rows, _ = searched(search, SPACE)
    for row in rows:
        assert SPACE.check(row.params, complete=True) == row.params
        assert list(row.params) == SPACE.active(row.params)
        assert all(row.params[name] == value for name, value in fixed.items() if name in row.params)
        assert all(name in row.params for name in fixed if name != "depth")
    assert len({row.params["width"] for row in rows}) > 5 or "width" in fixed
    for asked in told.asked:
        assert list(asked.space) == [
            name for name in SPACE if name not in fixed and (name, fixed.get("kind")) != ("depth", "plain")
        ]
        assert all(asked.space.check(seen.params, complete=True) == seen.params for seen in asked.history)
        assert all(asked.space.check(trial.params, complete=True) == trial.params for trial in asked.start)
        # As many as have the fixed values.
        assert len(asked.start) == sum(
            all(trial.params.get(name, value) == value for name, value in fixed.items()) for trial in past
        )


def test_all_may_be_fixed() -> None:
    fixed = {"lr": 0.1, "width": 3, "kind": "plain"}
    for sampler in ("random", *MODELS):
        rows, _ = searched(SearchSettings(1, 9, 1, sampler=sampler, fixed=fixed), SPACE)
        assert all(row.params == fixed for row in rows)


def test_a_tuple_comes_back_from_an_earlier_search_as_a_tuple() -> None:
    past = PastTrial(3, {"kernel": (3, 3), "x": "y"}, {1: 2.0})
    start = WarmStart("earlier", "label", (past,), (past,))
    head, trials = json.loads(json.dumps(start.plain()))
    # Iterations are texts in JSON's dicts only; here they are in lists.
    assert WarmStart.from_plain(head, trials) == start
