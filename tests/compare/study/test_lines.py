"""A search of a study in a line."""

from __future__ import annotations

from typing import Any

import pytest

from stantune.compare.study.contract import StudiedProblem, StudiedSearch
from stantune.compare.study.lines import search_line
from stantune.compare.study.numbers import waiting
from stantune.search.operating.told import StatusResult, TrainingNow
from stantune.search.results.contract import MetricResult, Seconds

PROBLEM = StudiedProblem(
    name="lenet",
    source="lenet",
    metric=MetricResult(name="validation error", direction="minimize", unit="%"),
    test="test error",
    unit="iteration",
    max_iterations=9,
    min_iterations=1,
    final_iterations=9,
    predicted={},
)
SPENT = Seconds(total=130.0, training=100.0, evaluation=20.0, coordination=10.0)
BEGUN: dict[str, Any] = {"seconds": SPENT, "trials": 14, "diverged": 3, "best": 4.321}


def search(**changes: Any) -> StudiedSearch:
    return waiting("lenet", "stan:0.5", 2, "there").model_copy(update=changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "waiting"),
        (
            {"state": "interrupted", **BEGUN},
            "interrupted, 2 min 10 s; 14 trials, 3 diverged; best validation error 4.32 %",
        ),
        (
            {"state": "done", **BEGUN, "final": 3.0, "test": 3.5},
            "done, 2 min 10 s; 14 trials, 3 diverged; best validation error 4.32 %; "
            "after the final training validation error 3.00 %, test error 3.50 %",
        ),
        (
            {"state": "done", **BEGUN},
            "done, 2 min 10 s; 14 trials, 3 diverged; best validation error 4.32 %; its final training diverged",
        ),
        ({"state": "failed", "failure": "the disk is full"}, "failed (the disk is full)"),
    ],
)
def test_where_it_stands(changes: dict[str, Any], words: str) -> None:
    assert search_line(PROBLEM, search(**changes)) == f"lenet, stan:0.5, seed 2: {words}"


def test_one_that_runs() -> None:
    now = StatusResult.model_construct(
        unit="iteration",
        trials_planned=17,
        training=[TrainingNow(trial=4, iterations=2, stop=3, final=False)],
        seconds_left=61.0,
    )
    assert search_line(PROBLEM, search(state="running", **BEGUN), now) == (
        "lenet, stan:0.5, seed 2: running, 2 min 10 s; 14 of 17 trials, 3 diverged; best validation error 4.32 %; "
        "trial 4: iteration 2 of 3; about 1 min 01 s left"
    )


def test_who_asked_for_no_final_training_has_lost_none() -> None:
    without = PROBLEM.model_copy(update={"final": "none"})
    assert search_line(without, search(state="done", **BEGUN)).endswith("best validation error 4.32 %")
