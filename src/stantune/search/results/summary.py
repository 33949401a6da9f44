"""A search's result in numbers, from its trial table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, cast

from stantune.outcome import Cost, total
from stantune.protocols import Metric, compared_value
from stantune.search.plan.finals import best_of, last_of
from stantune.search.plan.hyperband import Bracket
from stantune.search.plan.measured import OpenBracket
from stantune.search.plan.plans import PlanName
from stantune.search.plan.standings import Status, iterations_spared, iterations_trained, ranking, status
from stantune.search.plan.values import TrialRow
from stantune.search.propose.sampler import sampler_of
from stantune.search.results.contract import (
    Best,
    BestEvaluation,
    BracketChoice,
    BracketResult,
    Counts,
    Final,
    IterationsSpared,
    Leader,
    MetricResult,
    RateResult,
    RungResult,
    Saved,
    SearchSummary,
    Seconds,
    TrialFailure,
)
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.telling.notes import notes_of

LEADERS = 5
# Metrics that the contract has fields for: those of the built-in problems.
VALIDATION, TEST = "validation error", "test error"


class Described(Protocol):
    """What a result says of what was searched; each Objective tells it, and a trial table by itself, too."""

    @property
    def name(self) -> str:
        """See protocols.Objective."""
        ...

    @property
    def metric(self) -> Metric:
        """See protocols.Objective."""
        ...

    @property
    def unit(self) -> str:
        """See protocols.Objective."""
        ...

    @property
    def rate(self) -> float | Literal["auto"] | None:
        """See protocols.Objective."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """See protocols.Objective."""
        ...


def summarise(objective: Described, settings: SearchSettings, state: SearchState) -> SearchSummary:
    """Return the result of a search, complete or not."""
    counts = status(state.plan, state.rows)
    metric = state.metric
    # Once: an objective may digest its code for it.
    identity = objective.identity
    leaders = [
        Leader(
            trial=standing.number,
            params=dict(standing.params),
            value=metric.loss(standing.error),
            metrics=dict(state.rows[standing.number].metrics.get(standing.iterations, {})),
            validation_error=metric.loss(standing.error) if metric.name == VALIDATION else None,
            iterations=standing.iterations,
            validation_share=standing.share,
        )
        for standing in ranking(state.rows, state.whole)[:LEADERS]
    ]
    return SearchSummary(
        metric=MetricResult(name=metric.name, direction=metric.direction, unit=metric.unit),
        unit=objective.unit,
        problem=objective.name,
        seed=settings.seed,
        sampler=sampler_of(settings.sampler).name,
        started_from=None if settings.start is None else settings.start.label,
        accelerate="none" if objective.rate is None else "stan",
        precision=_text(identity.get("precision")),
        compile=identity.get("compile") is True,
        resize=_text(identity.get("resize")),
        plan=cast(PlanName, settings.plan_name),
        mode="async" if settings.mode == "async" else "sync",
        variant=settings.variant,
        eta=settings.eta,
        max_iterations=settings.max_resource,
        min_iterations=settings.min_resource,
        rates=rate_results(objective, settings),
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
        seconds=cost_seconds(_whole(state)),
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
        final_training=settings.final,  # type: ignore[arg-type]  # it was checked
        finalists=[_final(state, rank) for rank in sorted(state.finals)],
        final=None if state.winner is None else _final(state, state.winner),
        final_failure=state.final_failure,
        notes=notes_of(settings, state, objective.unit),
    )


def bracket_results(plan: Sequence[Bracket]) -> list[BracketResult]:
    """Return a plan in the terms of the JSON contract."""
    return [
        BracketResult(
            s=bracket.s,
            rungs=_rung_results(bracket),
            choices=[BracketChoice(s=choice.s, rungs=_rung_results(choice)) for choice in bracket.choices]
            if isinstance(bracket, OpenBracket)
            else [],
        )
        for bracket in plan
    ]


def _text(value: object) -> str | None:
    """Return a value of an objective's identity, which may hold anything, where it is a text."""
    return value if isinstance(value, str) else None


def _rung_results(bracket: Bracket) -> list[RungResult]:
    return [RungResult(iterations=rung.iterations, trials=rung.trials) for rung in bracket.rungs]


def rate_results(objective: Described, settings: SearchSettings) -> list[RateResult]:
    """Return STAN's rates by iteration in the terms of the JSON contract.

    Of a course among the STAN settings of a function it has the least: it counts iterations, and the search epochs.
    """
    if objective.rate is None:
        return []
    stretches = settings.rates_from() or objective.identity.get("rates") or ((0, objective.rate),)
    within = [(start, rate) for start, rate in stretches if start < settings.max_resource]
    stops = [*(start for start, _ in within[1:]), settings.max_resource]
    return [RateResult(iterations=stop, rate=rate) for (_, rate), stop in zip(within, stops, strict=True)]


def cost_seconds(cost: Cost) -> Seconds:
    """Return where the time of trainings went."""
    return Seconds(
        total=cost.training_seconds + cost.evaluation_seconds + cost.coordination_seconds,
        training=cost.training_seconds,
        evaluation=cost.evaluation_seconds,
        coordination=cost.coordination_seconds,
    )


def _final(state: SearchState, rank: int) -> Final:
    final, trial = state.finals[rank], state.contenders[rank]
    return Final(
        trial=trial.number,
        params=dict(final.params),
        iterations=final.iterations,
        value=compared_value(state.metric, final.metrics),
        metrics=dict(final.metrics),
        validation_error=final.metrics.get(VALIDATION),
        test_error=final.metrics.get(TEST),
        weights=last_of(rank, final).weights,
        trial_value=state.metric.loss(trial.error),
        best=_best_evaluation(state, rank),
    )


def _best_evaluation(state: SearchState, rank: int) -> BestEvaluation | None:
    best = best_of(rank, state.finals[rank], state.metric)
    value = None if best is None else compared_value(state.metric, best.metrics)
    if best is None or value is None:
        return None
    return BestEvaluation(iterations=best.iterations, value=value, metrics=dict(best.metrics), weights=best.weights)


def _whole(state: SearchState) -> Cost:
    """Add up the costs of the trials, and of the final trainings that count."""
    return total([cost for row in state.rows for cost in row.costs.values()] + [f.cost for f in state.finals.values()])


def sound_cost(state: SearchState) -> Cost:
    """Add up the costs of what came to its end, final trainings among them.

    Of a training that diverged in the middle of an epoch the time is known, and not the epoch: its pace is none.
    """
    costs = [cost for row in state.rows for cost in _sound(row)]
    return total(costs + [final.cost for final in state.finals.values() if final.diverged_at is None])


def _sound(row: TrialRow) -> list[Cost]:
    return [cost for stop, cost in row.costs.items() if stop in row.errors]


def _saved(settings: SearchSettings, state: SearchState, counts: Status) -> Saved:
    """Price what each trial was spared at its own pace: in many a space a setting decides how fast it trains."""
    usual = _pace(_whole(state), 0.0)
    usual_exact = _exact_pace(sound_cost(state), 0.0)
    early_stopping = continuing = stan = 0.0
    for row in state.rows:
        own = total(list(row.costs.values()))
        pace = _pace(own, usual)
        # A trial of an unfinished search that has not ended yet was spared nothing: its iterations are still to come.
        # Nor was a duplicate, which would not have been trained twice either way.
        if counts.trials[row.number] in ("dropped", "diverged") and not row.duplicate:
            early_stopping += pace * (settings.max_resource - iterations_trained([row]))
        continuing += pace * _trained_before(row)
        sound = total(_sound(row))
        exact_pace = _exact_pace(sound, usual_exact)
        if exact_pace:
            stan += exact_pace * sound.reduced - sound.reduced_seconds
    return Saved(early_stopping=early_stopping, continuing=continuing, stan=stan)


def _pace(cost: Cost, otherwise: float) -> float:
    """Return the seconds of an average iteration, `otherwise` where there was none (a trial that diverged at once)."""
    return cost.training_seconds / cost.iterations if cost.iterations else otherwise


def _exact_pace(cost: Cost, otherwise: float) -> float:
    """Return the seconds of an exact iteration, `otherwise` where there was none."""
    return cost.exact_seconds / cost.exact if cost.exact else otherwise


def _trained_before(row: TrialRow) -> int:
    """Return what a trial would have trained again, had each of its rungs begun from scratch."""
    reached = sorted(iterations for iterations in row.errors if iterations not in row.taken)
    # Where it diverged, its last segment began at the last rung that it passed, and not one rung below.
    return sum(reached) if row.diverged_at is not None else sum(reached[:-1])
