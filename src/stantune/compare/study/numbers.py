"""What a study came to, from its searches' tables: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stantune.compare.study.contract import (
    NATIVE,
    STOCK,
    Interval,
    StudiedProblem,
    StudiedSearch,
    StudySummary,
    WayResult,
)
from stantune.compare.study.intervals import interval, ratios
from stantune.outcome import Cost, total
from stantune.protocols import Metric, compared_value
from stantune.search.plan.finals import winner_of
from stantune.search.plan.standings import incumbent, iterations_trained
from stantune.search.results.summary import cost_seconds
from stantune.search.table.looking.look import Seen

Value = Callable[[StudiedSearch], float | None]


def test_of(metric: Metric) -> str | None:
    """Return the metric that is its like on the test set, by its name; None where the name does not say."""
    name = metric.name.replace("validation", "test")
    return None if name == metric.name else name


def waiting(problem: str, way: str, seed: int, directory: str) -> StudiedSearch:
    """Return a search that has not begun."""
    return StudiedSearch(
        problem=problem,
        way=way,
        seed=seed,
        directory=directory,
        state="waiting",
        failure=None,
        seconds=None,
        final_seconds=0.0,
        iteration_seconds=None,
        trials=0,
        diverged=0,
        failed=0,
        iterations=0,
        evaluations=0,
        best=None,
        final=None,
        test=None,
    )


def searched(begun: StudiedSearch, seen: Seen, failure: str | None = None) -> StudiedSearch:
    """Return what a search has come to by now."""
    rows, metric = seen.rows, seen.metric
    trials = total([cost for row in rows for cost in row.costs.values()])
    finals = cost_seconds(total([final.cost for final in seen.finals.values()]))
    best = incumbent(rows, seen.whole)
    done = seen.state == "done"
    winner = winner_of(seen.finals, metric) if done else None
    final = None if winner is None else seen.finals[winner]
    test = test_of(metric)
    return begun.model_copy(
        update={
            "state": "failed" if failure is not None else seen.state,
            "failure": failure,
            "seconds": cost_seconds(seen.cost),
            "final_seconds": finals.total,
            "iteration_seconds": _pace(trials),
            "trials": len(rows),
            "diverged": sum(row.diverged_at is not None for row in rows),
            "failed": sum(row.failed is not None for row in rows),
            "iterations": iterations_trained(rows),
            "evaluations": sum(len(row.errors.keys() - row.taken.keys()) for row in rows),
            "best": None if best is None else metric.loss(best.error),
            "final": None if final is None else compared_value(metric, final.metrics),
            "test": None if final is None or test is None else final.metrics.get(test),
        }
    )


def summary_of(
    problems: Sequence[StudiedProblem], ways: Sequence[str], seeds: Sequence[int], searches: Sequence[StudiedSearch]
) -> StudySummary:
    """Return the study's result of what its searches came to."""
    return StudySummary(
        complete=all(search.state == "done" for search in searches),
        problems=list(problems),
        ways=list(ways),
        seeds=list(seeds),
        searches=list(searches),
        results=[
            _result(problem, way, searches)
            for problem in problems
            for way in ways
            if any((one.problem, one.way) == (problem.name, way) for one in searches)
        ],
    )


def _result(problem: StudiedProblem, way: str, searches: Sequence[StudiedSearch]) -> WayResult:
    done = {(one.way, one.seed): one for one in searches if one.problem == problem.name and one.state == "done"}
    own = [one for (of, _), one in done.items() if of == way]

    def pairs(other: str) -> list[tuple[StudiedSearch, StudiedSearch]]:
        return [(one, done[other, one.seed]) for one in own if (other, one.seed) in done]

    def faster(other: str, value: Value) -> Interval:
        both = [(value(theirs), value(mine)) for mine, theirs in pairs(other)]
        return ratios([theirs / mine for theirs, mine in both if theirs and mine])

    def above(other: str) -> Interval:
        both = [(mine.test, theirs.test) for mine, theirs in pairs(other)]
        return interval([mine - theirs for mine, theirs in both if mine is not None and theirs is not None])

    def mean(value: Value) -> Interval:
        return interval([found for one in own if (found := value(one)) is not None])

    return WayResult(
        problem=problem.name,
        way=way,
        seeds=len(own),
        seconds=mean(_seconds),
        faster_than_stock=faster(STOCK, _seconds),
        faster_than_native=faster(NATIVE, _seconds),
        training_faster=faster(STOCK, lambda one: one.iteration_seconds),
        predicted=problem.predicted.get(way),
        iterations=mean(lambda one: one.iterations),
        evaluations=mean(lambda one: one.evaluations),
        diverged=mean(lambda one: one.diverged),
        best=mean(lambda one: one.best),
        final=mean(lambda one: one.final),
        test=mean(lambda one: one.test),
        test_against_stock=above(STOCK),
        test_against_native=above(NATIVE),
    )


def _seconds(one: StudiedSearch) -> float | None:
    return None if one.seconds is None else one.seconds.total


def _pace(cost: Cost) -> float | None:
    return cost.training_seconds / cost.iterations if cost.iterations else None
