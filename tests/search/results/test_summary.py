"""The summary of a search against a trial table whose numbers are worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from numbers_objective import Numbers

from stantune.outcome import Cost
from stantune.protocols import Metric
from stantune.search.plan.hyperband import Bracket, Rung
from stantune.search.plan.values import FinalResult, SegmentFailure, TrialRow
from stantune.search.results.summary import LEADERS, cost_seconds, sound_cost, summarise
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState

# As a built-in problem has it.
METRIC = Metric("validation error", unit="%")
LENET = Numbers(name="lenet", length=10_000, metric=METRIC, rate=0.5)
SETTINGS = SearchSettings(seed=5, max_resource=90, min_resource=10, eta=3)
# Six trials; two go on to 30 iterations, one of them to 90. And a bracket of two trials that drops none.
PLAN = (Bracket(2, (Rung(10, 6), Rung(30, 2), Rung(90, 1))), Bracket(0, (Rung(90, 2),)))


def cost(exact: int, exact_seconds: float, reduced: int = 0, reduced_seconds: float = 0.0) -> Cost:
    """What a segment took; each evaluation takes 0.5 s and the coordination of each job 0.25 s."""
    return Cost(exact, exact_seconds, reduced, reduced_seconds, evaluation_seconds=0.5, coordination_seconds=0.25)


def rows() -> list[TrialRow]:
    def row(
        number: int, bracket: int, errors: dict[int, float], costs: dict[int, Cost], diverged_at: int | None = None
    ):
        metrics = {stop: {METRIC.name: error} for stop, error in errors.items()}
        return TrialRow(number, bracket, {"lr": 0.1 * (number + 1)}, errors, diverged_at, costs, metrics=metrics)

    return [
        # Goes on to the end. 18 exact iterations of 1 s, 72 reduced ones of 0.5 s.
        row(
            0,
            2,
            {10: 40.0, 30: 20.0, 90: 12.0},
            {10: cost(2, 2.0, 8, 4.0), 30: cost(4, 4.0, 16, 8.0), 90: cost(12, 12.0, 48, 24.0)},
        ),
        # Dropped at 10: 2 exact ones of 2 s, 8 reduced ones of 1 s, so 1.2 s an iteration.
        row(1, 2, {10: 50.0}, {10: cost(2, 4.0, 8, 8.0)}),
        # Promoted, then diverged at 16: 16 iterations, 3.2 s exact, 6.4 s reduced, 0.6 s an iteration on the average.
        row(2, 2, {10: 30.0}, {10: cost(2, 2.0, 8, 4.0), 30: cost(2, 1.2, 4, 2.4)}, 16),
        # Diverged in its very first iteration, which took 0.3 s.
        row(3, 2, {}, {10: cost(0, 0.3)}, 0),
        # Dropped at 10, and STAN made it slower: 2 exact ones of 1 s, 8 reduced ones of 1.5 s; 1.4 s an iteration.
        row(4, 2, {10: 50.0}, {10: cost(2, 2.0, 8, 12.0)}),
        # Dropped at 10, without a reduced iteration: 1 s an iteration.
        row(5, 2, {10: 89.5}, {10: cost(10, 10.0)}),
        # Ran to the end, exactly, in 45 s.
        row(6, 0, {90: 12.0}, {90: cost(90, 45.0)}),
        # Dropped by nobody: its bracket ends where it ends.
        row(7, 0, {90: 70.0}, {90: cost(90, 45.0)}),
    ]


FINAL = FinalResult({"lr": 0.1}, 90, {"validation error": 11.0, "test error": 11.5}, None, cost(90, 90.0))


def state(table: list[TrialRow], finals: dict[int, FinalResult], complete: bool, plan: Any = PLAN) -> SearchState:
    return SearchState(plan, table, finals, METRIC, complete)


def test_brackets_and_settings() -> None:
    result = summarise(LENET, SETTINGS, state(rows(), {0: FINAL}, True))
    assert result.model_dump(include={"problem", "seed", "accelerate", "variant", "eta", "max_iterations"}) == {
        "problem": "lenet",
        "seed": 5,
        "accelerate": "stan",
        "variant": "algorithm1",
        "eta": 3,
        "max_iterations": 90,
    }
    assert result.schema_version == "stantune.search/1"
    assert result.complete
    assert [bracket.model_dump() for bracket in result.brackets] == [
        {
            "s": 2,
            "rungs": [
                {"iterations": 10, "trials": 6},
                {"iterations": 30, "trials": 2},
                {"iterations": 90, "trials": 1},
            ],
            "choices": [],
        },
        {"s": 0, "rungs": [{"iterations": 90, "trials": 2}], "choices": []},
    ]


def test_counts_and_iterations() -> None:
    result = summarise(LENET, SETTINGS, state(rows(), {0: FINAL}, True))
    # Promoted: 0 and 2. Dropped: 1, 4, 5. Diverged: 2 and 3. Finished: 0, 6, 7.
    assert result.counts.model_dump() == {
        "trials": 8,
        "promoted": 2,
        "dropped": 3,
        "diverged": 2,
        "failed": 0,
        "duplicates": 0,
        "retries": 0,
    }
    assert result.iterations_trained == 90 + 10 + 16 + 0 + 10 + 10 + 90 + 90


def test_the_best_are_ranked_and_what_diverged_is_none_of_them() -> None:
    result = summarise(LENET, SETTINGS, state(rows(), {0: FINAL}, True))
    ranked = [(leader.trial, leader.validation_error, leader.iterations) for leader in result.leaders]
    assert LEADERS == 5
    assert ranked == [(0, 12.0, 90), (6, 12.0, 90), (1, 50.0, 10), (4, 50.0, 10), (7, 70.0, 90)]
    assert result.best is not None
    assert result.best.model_dump() == {
        "params": {"lr": 0.1},
        "value": 12.0,
        "metrics": {"validation error": 12.0},
        "validation_error": 12.0,
        "iterations": 90,
        "validation_share": 1.0,
    }
    assert result.final is not None
    assert result.final.model_dump() == {
        "trial": 0,
        "params": {"lr": 0.1},
        "iterations": 90,
        "value": 11.0,
        "metrics": {"validation error": 11.0, "test error": 11.5},
        "validation_error": 11.0,
        "test_error": 11.5,
        "weights": "final.pt",
        "trial_value": 12.0,
        # It was not evaluated on its way.
        "best": {
            "iterations": 90,
            "value": 11.0,
            "metrics": {"validation error": 11.0, "test error": 11.5},
            "weights": "final.pt",
        },
    }


def test_seconds_are_those_of_all_trials_and_the_final_training() -> None:
    seconds = summarise(LENET, SETTINGS, state(rows(), {0: FINAL}, True)).seconds
    # Trial by trial, in the order of the table; then the final training.
    training = (18 + 36) + 12 + (6 + 3.6) + 0.3 + 14 + 10 + 45 + 45 + 90
    assert seconds.training == pytest.approx(training)
    assert seconds.evaluation == pytest.approx(12 * 0.5)  # 3 + 1 + 2 + 5 segments, and the final training
    assert seconds.coordination == pytest.approx(12 * 0.25)
    assert seconds.total == pytest.approx(training + 6 + 3)


def test_savings_are_priced_at_each_trials_own_pace() -> None:
    saved = summarise(LENET, SETTINGS, state(rows(), {0: FINAL}, True)).saved
    # A trial that did not train at all: the pace of everything, 279.9 s of 406 iterations.
    everything = (54 + 12 + 9.6 + 0.3 + 14 + 10 + 45 + 45 + 90) / (90 + 10 + 16 + 0 + 10 + 10 + 90 + 90 + 90)
    early = 80 * 1.2 + 74 * 9.6 / 16 + 90 * everything + 80 * 1.4 + 80 * 1.0
    assert saved.early_stopping == pytest.approx(early)
    # Trial 0 did not train 10 + 30 iterations again at 0.6 s; trial 2 not the first 10, at 0.6 s.
    assert saved.continuing == pytest.approx(40 * 54 / 90 + 10 * 0.6)
    # 72 at 1 s less 36 s; 8 at 2 s less 8 s; 8 at 1 s less 4 s before it diverged; 8 at 1 s less 12 s: a loss.
    assert saved.stan == pytest.approx((72 - 36) + (16 - 8) + (8 - 4) + (8 - 12))


def test_a_search_without_any_exact_iteration_is_compared_with_the_final_training() -> None:
    plan = (Bracket(0, (Rung(10, 1),)),)
    only = [TrialRow(0, 0, {}, {10: 50.0}, None, {10: cost(0, 0.0, 10, 6.0)})]
    # Exact iterations take 1 s in the final training; before it nothing can be said.
    assert summarise(LENET, SETTINGS, state(only, {0: FINAL}, True, plan)).saved.stan == pytest.approx(4)
    assert summarise(LENET, SETTINGS, state(only, {}, False, plan)).saved.stan == 0


@pytest.mark.parametrize("lost", [Cost(exact_seconds=100.0), Cost(reduced_seconds=100.0)])
def test_what_diverged_within_an_epoch_is_no_pace(lost: Cost) -> None:
    plan = (Bracket(0, (Rung(9, 3),)),)
    table = [
        TrialRow(0, 0, {"lr": 0.1}, {9: 50.0}, None, {9: Cost(reduced=9, reduced_seconds=4.5)}),
        TrialRow(1, 0, {"lr": 0.2}, {9: 60.0}, None, {9: Cost()}),
        TrialRow(2, 0, {"lr": 0.3}, {}, 1, {9: lost}),
    ]
    # Exact ones take 1 s in the final training, and what a final training lost says nothing of them.
    finals = {0: FINAL, 1: replace(FINAL, metrics={}, diverged_at=1, cost=lost)}
    assert summarise(LENET, SETTINGS, state(table, finals, True, plan)).saved.stan == pytest.approx(4.5)
    found = sound_cost(state(table, finals, True, plan))
    assert (found.exact, found.exact_seconds, found.reduced, found.reduced_seconds) == (90, 90.0, 9, 4.5)


def test_trials_that_are_still_to_go_on_have_saved_nothing_yet() -> None:
    # Half of the first rung: one trial diverged, the others wait for the rung to close.
    table = [row for row in rows() if row.number in (1, 3, 4)]
    table = [TrialRow(place, 2, row.params, row.errors, row.diverged_at, row.costs) for place, row in enumerate(table)]
    result = summarise(LENET, SETTINGS, state(table, {}, False))
    assert not result.complete
    assert result.final is None
    assert result.counts.model_dump() == {
        "trials": 3,
        "promoted": 0,
        "dropped": 0,
        "diverged": 1,
        "failed": 0,
        "duplicates": 0,
        "retries": 0,
    }
    assert result.saved.early_stopping == pytest.approx(90 * (12 + 0.3 + 14) / 20)
    assert result.saved.continuing == 0


def test_failures_are_told_and_kept_apart_from_divergence() -> None:
    table = rows()
    table[4] = TrialRow(4, 2, {"lr": 0.5}, failures=(SegmentFailure(10, "a"), SegmentFailure(10, "b")), failed="b")
    table[0] = replace(table[0], failures=(SegmentFailure(30, "c"),))
    result = summarise(LENET, SETTINGS, state(table, {0: FINAL}, True))
    assert (result.counts.diverged, result.counts.failed, result.counts.dropped) == (2, 1, 2)
    assert result.counts.retries == 2
    assert [failure.model_dump() for failure in result.failures] == [
        {"trial": 4, "params": {"lr": 0.5}, "iterations": 10, "cause": "b"}
    ]
    assert all(leader.trial != 4 for leader in result.leaders)


def test_nothing_at_all() -> None:
    result = summarise(LENET, SETTINGS, state([], {}, False))
    assert (result.best, result.leaders, result.final, result.iterations_trained) == (None, [], None, 0)
    assert set(result.seconds.model_dump().values()) == set(result.saved.model_dump().values()) == {0.0}


def test_a_final_training_that_diverged_has_no_errors() -> None:
    final = replace(FINAL, iterations=7, metrics={}, diverged_at=7)
    result = summarise(LENET, SETTINGS, state(rows(), {0: final}, True))
    assert result.final is not None
    assert result.final.model_dump() == {
        "trial": 0,
        "params": {"lr": 0.1},
        "iterations": 7,
        "value": None,
        "metrics": {},
        "validation_error": None,
        "test_error": None,
        "weights": None,
        "trial_value": 12.0,
        "best": None,
    }


def test_a_metric_that_is_maximised_is_told_as_it_was_measured() -> None:
    metric = Metric("accuracy", "maximize")
    table = [
        TrialRow(0, 0, {"lr": 0.1}, {90: -0.75}, metrics={90: {"accuracy": 0.75, "loss": 2.0}}),
        TrialRow(1, 0, {"lr": 0.2}, {90: -0.875}, metrics={90: {"accuracy": 0.875}}),
    ]
    finals = {
        0: FinalResult({"lr": 0.2}, 90, {"accuracy": 0.5}, None, Cost()),
        1: FinalResult({"lr": 0.1}, 90, {"accuracy": 0.625}, None, Cost()),
    }
    found = SearchState(PLAN[1:], table, finals, metric, True)
    result = summarise(replace(LENET, metric=metric, unit="epoch"), replace(SETTINGS, finalists=2), found)
    assert result.metric.model_dump() == {"name": "accuracy", "direction": "maximize", "unit": ""}
    assert result.unit == "epoch"
    assert [(leader.trial, leader.value, leader.validation_error) for leader in result.leaders] == [
        (1, 0.875, None),
        (0, 0.75, None),
    ]
    assert result.leaders[1].metrics == {"accuracy": 0.75, "loss": 2.0}
    assert result.final is not None
    assert (result.final.trial, result.final.value, result.final.weights) == (0, 0.625, "final-2.pt")


def test_rates_by_rung_are_told_by_where_they_end() -> None:
    by_rung = summarise(LENET, replace(SETTINGS, rates=(0.25, 0.5, 1.0)), state(rows(), {}, False))
    assert [(rate.iterations, rate.rate) for rate in by_rung.rates] == [(10, 0.25), (30, 0.5), (90, 1.0)]
    one = summarise(LENET, SETTINGS, state(rows(), {}, False))
    assert [(rate.iterations, rate.rate) for rate in one.rates] == [(90, 0.5)]
    exact = summarise(replace(LENET, rate=None), SETTINGS, state(rows(), {}, False))
    assert (exact.rates, exact.accelerate) == ([], "none")


def test_a_course_of_rates_is_told_by_where_they_end() -> None:
    course = replace(LENET, rate=0.25, other={"rates": [[0, 0.25], [30, 0.5], [60, 1.0], [90, 0.5]]})
    told = summarise(course, SETTINGS, state(rows(), {}, False))
    assert [(rate.iterations, rate.rate) for rate in told.rates] == [(30, 0.25), (60, 0.5), (90, 1.0)]
    by_rung = summarise(course, replace(SETTINGS, rates=(0.5, 1.0)), state(rows(), {}, False))
    assert [(rate.iterations, rate.rate) for rate in by_rung.rates] == [(30, 0.5), (90, 1.0)]


def test_the_seconds_of_one_training() -> None:
    seconds = cost_seconds(Cost(exact=2, exact_seconds=3.0, reduced=5, reduced_seconds=4.0, evaluation_seconds=0.5))
    assert seconds.model_dump() == {"total": 7.5, "training": 7.0, "evaluation": 0.5, "coordination": 0.0}
