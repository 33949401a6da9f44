"""A search's result in numbers, from its trial table."""

from __future__ import annotations

from collections.abc import Sequence

from stantune.problems import Problem
from stantune.report.results import (
    Best,
    BracketResult,
    Counts,
    Final,
    Leader,
    RungResult,
    Saved,
    SearchResult,
    Seconds,
)
from stantune.search.coordinator import TrialRow, iterations_trained, ranking, status
from stantune.search.hyperband import Bracket
from stantune.search.loop import SearchState
from stantune.search.settings import SearchSettings
from stantune.train import Cost

LEADERS = 5


def summarise(problem: Problem, settings: SearchSettings, state: SearchState) -> SearchResult:
    """Return the result of a search, complete or not."""
    counts = status(state.plan, state.rows)
    leaders = [
        Leader(
            trial=standing.number,
            params=dict(standing.params),
            validation_error=standing.error,
            iterations=standing.iterations,
        )
        for standing in ranking(state.rows)[:LEADERS]
    ]
    return SearchResult(
        problem=problem.name,
        seed=settings.seed,
        accelerate="none" if settings.stan is None else "stan",
        variant=settings.variant,
        eta=settings.eta,
        max_iterations=settings.max_iterations,
        min_iterations=settings.min_iterations,
        complete=state.complete,
        brackets=bracket_results(state.plan),
        counts=Counts(
            trials=len(state.rows), promoted=counts.promoted, dropped=counts.dropped, diverged=counts.diverged
        ),
        iterations_trained=iterations_trained(state.rows),
        seconds=_seconds(state),
        saved=_saved(settings, state),
        best=Best(**leaders[0].model_dump(exclude={"trial"})) if leaders else None,
        leaders=leaders,
        final=_final(state),
    )


def bracket_results(plan: Sequence[Bracket]) -> list[BracketResult]:
    """Return a plan in the terms of the JSON contract."""
    return [
        BracketResult(
            s=bracket.s, rungs=[RungResult(iterations=rung.iterations, trials=rung.trials) for rung in bracket.rungs]
        )
        for bracket in plan
    ]


def cost_seconds(cost: Cost) -> Seconds:
    """Return the seconds of one training."""
    training = cost.exact_seconds + cost.reduced_seconds
    return Seconds(
        total=training + cost.evaluation_seconds,
        training=training,
        evaluation=cost.evaluation_seconds,
        coordination=0.0,
    )


def _final(state: SearchState) -> Final | None:
    if state.final is None:
        return None
    return Final(
        params=state.final["params"],
        iterations=state.final["iterations"],
        validation_error=state.final["errors"].get("validation"),
        test_error=state.final["errors"].get("test"),
    )


def _total(state: SearchState, name: str) -> float:
    """Add up one number of all costs, the final training's among them."""
    costs = [cost for row in state.rows for cost in row.costs.values()]
    if state.final is not None:
        costs.append(state.final["cost"])
    return float(sum(cost[name] for cost in costs))


def _seconds(state: SearchState) -> Seconds:
    training = _total(state, "exact_seconds") + _total(state, "reduced_seconds")
    evaluation, coordination = _total(state, "evaluation_seconds"), _total(state, "coordination_seconds")
    return Seconds(
        total=training + evaluation + coordination,
        training=training,
        evaluation=evaluation,
        coordination=coordination,
    )


def _saved(settings: SearchSettings, state: SearchState) -> Saved:
    exact, reduced = _total(state, "exact"), _total(state, "reduced")
    exact_seconds, reduced_seconds = _total(state, "exact_seconds"), _total(state, "reduced_seconds")
    an_exact = exact_seconds / exact if exact else 0.0
    an_average = (exact_seconds + reduced_seconds) / (exact + reduced) if exact + reduced else 0.0
    return Saved(
        early_stopping=an_average * sum(_not_trained(row, settings.max_iterations) for row in state.rows),
        continuing=an_average * sum(sum(sorted(row.errors)[:-1]) + _base_of_divergence(row) for row in state.rows),
        stan=reduced * an_exact - reduced_seconds if exact and reduced else 0.0,
    )


def _not_trained(row: TrialRow, maximum: int) -> int:
    reached = row.diverged_at if row.diverged_at is not None else max(row.errors, default=0)
    return maximum - reached


def _base_of_divergence(row: TrialRow) -> int:
    """Return where a promoted trial stood before the segment in which it diverged."""
    return max(row.errors, default=0) if row.diverged_at is not None else 0
