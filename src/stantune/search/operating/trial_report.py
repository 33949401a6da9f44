"""One trial of a search, with all that its directory tells of it."""

from __future__ import annotations

from stantune.errors import UsageError
from stantune.outcome import total
from stantune.protocols import compared_value
from stantune.search.operating.status import metric_result
from stantune.search.operating.told import FailedOnce, FinalOf, RungReached, TrialReport, loss_points
from stantune.search.plan.finals import last_of
from stantune.search.plan.standings import status
from stantune.search.plan.values import setting_key
from stantune.search.results.summary import cost_seconds
from stantune.search.table.looking.look import Seen
from stantune.texts import encodable


def trial_report(seen: Seen, number: int) -> TrialReport:
    """Return what is known of a trial; raises UsageError where the search has none with this number."""
    if not 0 <= number < len(seen.rows):
        there = f"0 to {len(seen.rows) - 1}" if seen.rows else "none so far"
        raise UsageError(f"there is no trial {number} in {seen.directory.path}; its trials are {there}")
    row, metric = seen.rows[number], seen.metric
    stops = sorted({*row.errors, *row.costs, *row.taken})
    checkpoint = seen.directory.checkpoint(number)
    setting, finals = setting_key(row.params), []
    for rank, final in sorted(seen.finals.items()):
        if setting_key(final.params) == setting:
            weights = last_of(rank, final).weights
            finals.append(
                FinalOf(
                    rank=rank,
                    iterations=final.iterations,
                    value=compared_value(metric, final.metrics),
                    metrics=dict(final.metrics),
                    weights=None if weights is None else str(seen.directory.path / weights),
                    losses=loss_points(final.losses),
                )
            )
    return TrialReport(
        directory=str(seen.directory.path),
        problem=encodable(seen.problem),
        metric=metric_result(metric),
        unit=seen.unit,
        trial=number,
        status=status(seen.plan, seen.rows).trials[number],
        bracket=row.bracket,
        params=dict(row.params),
        iterations=row.reached,
        rungs=[
            RungReached(
                iterations=stop,
                value=metric.loss(row.errors[stop]) if stop in row.errors else None,
                validation_share=row.shares.get(stop, 1.0),
                metrics=dict(row.metrics.get(stop, {})),
                seconds=cost_seconds(row.costs[stop]) if stop in row.costs else None,
                taken_over_from=row.taken.get(stop),
            )
            for stop in stops
        ],
        diverged_at=row.diverged_at,
        cause=row.failed,
        failures=[FailedOnce(iterations=failure.stop, cause=failure.cause) for failure in row.failures],
        started_from=row.started_from,
        checkpoint=str(checkpoint) if checkpoint.exists() else None,
        seconds=cost_seconds(total(list(row.costs.values()))),
        finals=finals,
        losses=loss_points(row.loss_curve),
    )
