"""What the first trial's pace foretold of a whole search, against what that took."""

from __future__ import annotations

from stantune.outcome import Cost, total
from stantune.report.page.contract import Foretold
from stantune.search.plan.hyperband import trained_iterations
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState


def foretold(state: SearchState, settings: SearchSettings) -> Foretold | None:
    """Return how far the first trial's pace leads astray; None where the search is not complete, or nothing was timed.

    It is the estimate that anybody makes who has seen one trial: as many iterations and evaluations as the plan has if
    no trial diverges, each at that trial's pace.
    """
    first = next(
        (
            (row, stop)
            for row in state.rows
            if (stop := min(row.errors, default=None)) is not None
            and stop not in row.taken
            and row.costs.get(stop, Cost()).training_seconds > 0
        ),
        None,
    )
    if first is None or not state.complete:
        return None
    row, stop = first
    cost = row.costs[stop]
    pace, evaluation = cost.training_seconds / stop, cost.evaluation_seconds
    rungs = [rung for bracket in state.plan for rung in bracket.rungs]
    # A final training is evaluated wherever a trial may be, and at its end; one that trains nothing there alone.
    points = len({rung.iterations for rung in rungs} | {settings.final_length}) if settings.final_trained else 1
    iterations = trained_iterations(state.plan).continued + len(state.finals) * settings.final_trained
    evaluations = sum(rung.trials for rung in rungs) + len(state.finals) * points
    taken = total([cost for row in state.rows for cost in row.costs.values()] + [f.cost for f in state.finals.values()])
    return Foretold(
        trial=row.number,
        iterations=stop,
        seconds=pace * iterations + evaluation * evaluations,
        taken=taken.training_seconds + taken.evaluation_seconds,
    )
