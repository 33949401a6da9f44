"""A search's result in numbers, from its trial table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stantune.images.problems import Problem
from stantune.outcome import Cost
from stantune.report.results import (
    Best,
    BracketResult,
    Counts,
    Final,
    IterationsSpared,
    Leader,
    RateResult,
    RungResult,
    Saved,
    SearchResult,
    Seconds,
    TrialFailure,
)
from stantune.search.loop import SearchState
from stantune.search.plan.finals import weights_of
from stantune.search.plan.hyperband import Bracket
from stantune.search.plan.rows import TrialRow
from stantune.search.plan.standings import Status, iterations_spared, iterations_trained, ranking, status
from stantune.search.settings import SearchSettings

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
        sampler=settings.sampler,
        started_from=None if settings.start is None else settings.start.label,
        accelerate="none" if settings.stan is None else "stan",
        mode="async" if settings.mode == "async" else "sync",
        variant=settings.variant,
        eta=settings.eta,
        max_iterations=settings.max_iterations,
        min_iterations=settings.min_iterations,
        rates=rate_results(settings),
        complete=state.complete,
        brackets=bracket_results(state.plan),
        counts=Counts(
            trials=len(state.rows),
            promoted=counts.promoted,
            dropped=counts.dropped,
            diverged=counts.diverged,
            failed=counts.failed,
            duplicates=sum(row.duplicate for row in state.rows),
            # The last failure of a trial that failed for good was not followed by another try.
            retries=sum(len(row.failures) - (row.failed is not None) for row in state.rows),
        ),
        iterations_trained=iterations_trained(state.rows),
        iterations_spared=IterationsSpared(**iterations_spared(state.plan, state.rows)._asdict()),
        seconds=_seconds(state),
        saved=_saved(settings, state, counts),
        best=Best(**leaders[0].model_dump(exclude={"trial"})) if leaders else None,
        leaders=leaders,
        failures=[
            TrialFailure(
                trial=row.number,
                params=dict(row.params),
                iterations=row.failures[-1].stop,
                cause=row.failures[-1].cause,
            )
            for row in state.rows
            if row.failed is not None
        ],
        finalists=[_final(state, rank) for rank in sorted(state.finals)],
        final=None if state.winner is None else _final(state, state.winner),
    )


def bracket_results(plan: Sequence[Bracket]) -> list[BracketResult]:
    """Return a plan in the terms of the JSON contract."""
    return [
        BracketResult(
            s=bracket.s, rungs=[RungResult(iterations=rung.iterations, trials=rung.trials) for rung in bracket.rungs]
        )
        for bracket in plan
    ]


def rate_results(settings: SearchSettings) -> list[RateResult]:
    """Return STAN's rates by iteration in the terms of the JSON contract."""
    if settings.stan is None:
        return []
    stretches = settings.rates_from()
    if not stretches:
        return [RateResult(iterations=settings.max_iterations, rate=settings.stan.rate)]
    stops = [*(later.start for later in stretches[1:]), settings.max_iterations]
    return [RateResult(iterations=stop, rate=stretch.rate) for stretch, stop in zip(stretches, stops, strict=True)]


def cost_seconds(cost: Cost) -> Seconds:
    """Return the seconds of one training."""
    training = cost.exact_seconds + cost.reduced_seconds
    return Seconds(
        total=training + cost.evaluation_seconds,
        training=training,
        evaluation=cost.evaluation_seconds,
        coordination=0.0,
    )


def _final(state: SearchState, rank: int) -> Final:
    final = state.finals[rank]
    return Final(
        trial=ranking(state.rows)[rank].number,
        params=final["params"],
        iterations=final["iterations"],
        validation_error=final["errors"].get("validation"),
        test_error=final["errors"].get("test"),
        weights=None if final["diverged_at"] is not None else weights_of(rank),
    )


def _total(costs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Add up costs, number by number."""
    total = dict.fromkeys(
        ("exact", "exact_seconds", "reduced", "reduced_seconds", "evaluation_seconds", "coordination_seconds"), 0.0
    )
    for cost in costs:
        for name in total:
            total[name] += cost[name]
    return total


def _whole(state: SearchState) -> dict[str, float]:
    """Add up all costs, those of final trainings among them."""
    finals = [final["cost"] for final in state.finals.values()]
    return _total([cost for row in state.rows for cost in row.costs.values()] + finals)


def _seconds(state: SearchState) -> Seconds:
    whole = _whole(state)
    training = whole["exact_seconds"] + whole["reduced_seconds"]
    return Seconds(
        total=training + whole["evaluation_seconds"] + whole["coordination_seconds"],
        training=training,
        evaluation=whole["evaluation_seconds"],
        coordination=whole["coordination_seconds"],
    )


def _saved(settings: SearchSettings, state: SearchState, counts: Status) -> Saved:
    """Price what each trial was spared at its own pace: in many a space a setting decides how fast it trains."""
    whole = _whole(state)
    usual = _pace(whole, 0.0)
    usual_exact = _exact_pace(whole, 0.0)
    early_stopping = continuing = stan = 0.0
    for row in state.rows:
        own = _total(row.costs.values())
        pace = _pace(own, usual)
        # A trial of an unfinished search that has not ended yet was spared nothing: its iterations are still to come.
        # Nor was a duplicate, which would not have been trained twice either way.
        if counts.trials[row.number] in ("dropped", "diverged") and not row.duplicate:
            early_stopping += pace * (settings.max_iterations - iterations_trained([row]))
        continuing += pace * _trained_before(row)
        exact_pace = _exact_pace(own, usual_exact)
        if exact_pace:
            stan += exact_pace * own["reduced"] - own["reduced_seconds"]
    return Saved(early_stopping=early_stopping, continuing=continuing, stan=stan)


def _pace(cost: Mapping[str, float], otherwise: float) -> float:
    """Return the seconds of an average iteration, `otherwise` where there was none (a trial that diverged at once)."""
    iterations = cost["exact"] + cost["reduced"]
    return (cost["exact_seconds"] + cost["reduced_seconds"]) / iterations if iterations else otherwise


def _exact_pace(cost: Mapping[str, float], otherwise: float) -> float:
    """Return the seconds of an exact iteration, `otherwise` where there was none."""
    return cost["exact_seconds"] / cost["exact"] if cost["exact"] else otherwise


def _trained_before(row: TrialRow) -> int:
    """Return what a trial would have trained again, had each of its rungs begun from scratch."""
    reached = sorted(iterations for iterations in row.errors if iterations not in row.taken)
    # Where it diverged, its last segment began at the last rung that it passed, and not one rung below.
    return sum(reached) if row.diverged_at is not None else sum(reached[:-1])
