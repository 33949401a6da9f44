"""What a search says besides its numbers: one setting alone, an end that is worse than its trial, and nothing found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stantune.objectives.function.run import Run
from stantune.outcome import Cost
from stantune.parameters import Float
from stantune.protocols import Metric
from stantune.search.plan.values import FinalResult, TrialRow
from stantune.search.settings import SearchSettings, default_min_resource
from stantune.search.state import SearchState
from stantune.search.telling.notes import notes_of, one_setting
from stantune.space import Space
from stantune.tuning.tune import tune

SETTINGS = SearchSettings(0, 90, 30)
ERROR = Metric("error", unit="%")
UNEVEN = [(90, 10.0), (30, 11.0), (90, 12.0)]


def said(
    metric: Metric, trials: list[float | None], finals: list[float | None], complete: bool = True, **named: Any
) -> list[str]:
    """Return the notes of a search whose trials had these values in the end, and its best ones' final trainings."""
    settings = replace(SETTINGS, **named)
    rows = [
        TrialRow(number, 1, {"lr": 0.1 * number}, {30: 0.0} if value is None else {90: metric.loss(value)})
        if value is not None
        else TrialRow(number, 1, {"lr": 0.1 * number}, {}, diverged_at=7)
        for number, value in enumerate(trials)
    ]
    ended = {
        rank: FinalResult({"lr": 0.1}, 90, {metric.name: value}, None, Cost())
        if value is not None
        else FinalResult({"lr": 0.1}, 40, {}, 40, Cost())
        for rank, value in enumerate(finals)
    }
    return notes_of(settings, SearchState(settings.plan(), rows, ended, metric, complete), "iteration")


def test_a_final_training_that_is_clearly_worse_is_said_with_what_to_do() -> None:
    assert said(ERROR, [11.7, 20.0, 30.0], [16.1]) == [
        "the final training came to error 16.10 %, clearly worse than the 11.70 % of its trial 0 after 90 iterations: "
        "another seed, another result; train more settings in the end (`finalists`=3), or longer (`max_resource`)"
    ]


def test_those_that_go_on_are_beside_their_own_trials() -> None:
    """The second trial is better than the third one was at its end, and did not get there."""
    rows = [TrialRow(place, 1, {"lr": place}, {at: error}) for place, (at, error) in enumerate(UNEVEN)]
    finals = {
        rank: FinalResult({"lr": 2 * rank}, 90, {"error": error}, None, Cost())
        for rank, error in [(0, 20.0), (1, 15.0)]
    }
    settings = replace(SETTINGS, final="continue", finalists=2)
    state = SearchState(settings.plan(), rows, finals, ERROR, True, final_training="continue")
    assert notes_of(settings, state, "iteration") == [
        "the final training came to error 15.00 %, clearly worse than the 12.00 % of its trial 2 after 90 iterations: "
        "another seed, another result (the 2 final trainings are 10.00 %, 3.00 % from their trials); search longer "
        "(`max_resource`), and more settings"
    ]


def test_finalists_tell_how_far_seeds_are_apart() -> None:
    assert said(ERROR, [10.0, 11.0, 12.0, 13.0, 14.0], [18.0, 16.5], finalists=2) == [
        "the final training came to error 16.50 %, clearly worse than the 11.00 % of its trial 1 after 90 iterations: "
        "another seed, another result (the 2 final trainings are 8.00 %, 5.50 % from their trials); train more "
        "settings in the end (`finalists`=4), or longer (`max_resource`)"
    ]


def test_there_are_no_more_finalists_than_trials_with_results() -> None:
    (note,) = said(ERROR, [10.0, None, None], [18.0])
    assert note.endswith("another result; search longer (`max_resource`), and more settings")


@pytest.mark.parametrize(
    ("metric", "trial", "final", "clearly"),
    [
        (ERROR, 11.7, 12.8, False),
        (ERROR, 11.7, 12.9, True),
        # Less than a point is chance.
        (ERROR, 0.5, 1.4, False),
        (ERROR, 0.5, 1.6, True),
        (ERROR, 11.7, 3.0, False),
        # Of a share that is maximised, what is lacking is the error.
        (Metric("accuracy", "maximize"), 0.95, 0.945, False),
        (Metric("accuracy", "maximize"), 0.95, 0.93, True),
        (Metric("accuracy", "maximize"), 0.60, 0.57, False),
        (Metric("accuracy", "maximize", "%"), 95.0, 93.0, True),
        (Metric("loss"), 0.003, 0.0032, False),
        (Metric("loss"), 0.003, 0.006, True),
        (Metric("log likelihood", "maximize"), -100.0, -105.0, False),
        (Metric("log likelihood", "maximize"), -100.0, -111.0, True),
        (Metric("reward", "maximize"), 500.0, 400.0, True),
    ],
)
def test_what_clearly_worse_is(metric: Metric, trial: float, final: float, clearly: bool) -> None:
    assert bool(said(metric, [trial, trial], [final])) == clearly


def test_nothing_is_said_of_a_search_that_is_not_complete() -> None:
    assert said(ERROR, [11.7, None], [16.1], complete=False) == []
    assert said(ERROR, [None, None], [], complete=False) == []


def test_nothing_found_and_a_lost_end_are_said() -> None:
    (nothing,) = said(ERROR, [None, None], [])
    assert nothing.startswith("nothing was found, since every trial diverged, all 2 of them; narrow the space")
    assert said(ERROR, [10.0, 11.0, 12.0], [None]) == [
        "the final training diverged, that of the best setting at iteration 40; train more settings in the end "
        "(`finalists`=3), or longer (`max_resource`)"
    ]
    # One of them came to its end, and wins.
    assert said(ERROR, [10.0, 11.0], [None, 10.0], finalists=2) == []


@pytest.mark.parametrize(
    ("whole", "least", "named", "said"),
    [
        (
            40,
            20,
            {},
            "since it has one rung: `min_resource`=20 times `eta`=3 is more than `max_resource`=40; give "
            "`min_resource`=13 or less",
        ),
        (2, 1, {}, "since `max_resource`=2 is below `eta`=3; give `max_resource`=3 or more"),
        (2, 1, {"mode": "async"}, "since `max_resource`=2 is below `eta`=3; give `max_resource`=3 or more"),
        (2, 1, {"mode": "async", "trials": 4}, None),
        (39, 13, {}, None),
        (27, 1, {"brackets": 1}, None),
    ],
)
def test_one_setting_that_is_all_is_said(whole: int, least: int, named: dict[str, Any], said: str | None) -> None:
    settings = SearchSettings(0, whole, least, **named)
    wanted = said and f"one setting is all that this search tries, {said}"
    assert one_setting(settings, settings.plan()) == wanted


@pytest.mark.parametrize("unit", ["iteration", "epoch"])
def test_by_default_there_are_two_rungs_wherever_there_is_room(unit: str) -> None:
    for eta in (2, 3, 4, 10):
        for whole in range(1, 2000):
            settings = SearchSettings(0, whole, default_min_resource(whole, eta, unit), eta)
            rungs = settings.plan()[0].rungs
            assert (len(rungs) > 1) == (whole >= eta)
            assert len(rungs) <= 5


def test_one_setting_is_said_before_it_is_tried_and_in_the_end(tmp_path: Path) -> None:
    def train(run: Run) -> float:
        return run.params["x"]

    lines: list[str] = []
    space = Space({"x": Float(0, 1)})
    result = tune(
        train, space, max_resource=5, min_resource=2, minimize="loss", out=tmp_path, say=lines.append, workers=1
    )
    assert lines[0].startswith("note: one setting is all that this search tries, since it has one rung")
    assert result.summary.counts.trials == 1
    assert result.summary.notes == [lines[0].removeprefix("note: ")]
